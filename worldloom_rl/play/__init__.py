"""A person in a world and in a model's dream of it: the session, and the page that shows it in a browser.

world     the simulator, with its picture and its state
agent     the run's policy from the latent on, so that it acts in the dream too
session   world and dream side by side: steps, branches, a GIF
server    the session for a browser on this machine; page/ is what that shows
"""

from worldloom_rl.play.session import Session as Session
