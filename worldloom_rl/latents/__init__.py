"""What a latent is: how raw network outputs become a value, and how a value is read by heads."""

from worldloom_rl.latents.categorical import CategoricalLatent as CategoricalLatent
from worldloom_rl.latents.codebook import CodebookLatent as CodebookLatent
from worldloom_rl.latents.gaussian import GaussianLatent as GaussianLatent
from worldloom_rl.latents.simnorm import SimNormLatent as SimNormLatent
from worldloom_rl.latents.space import LatentSpace as LatentSpace
