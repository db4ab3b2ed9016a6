"""A person in a world and in a model's dream of it: the session, and the page that shows it in a browser.

opening   the run's world (envs.drawn_world), or why there is none
session   world and dream side by side: steps, branches; film, its pictures as files
server    the session for a browser on this machine; page/ is what that shows
"""

from worldloom_rl.play.session import Session as Session
