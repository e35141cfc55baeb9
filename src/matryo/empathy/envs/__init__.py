"""The gridworlds; importing this registers them with Gymnasium as `matryo/Coexistence-v0` and `matryo/Sharing-v0`."""

import gymnasium
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

for _world in ("Coexistence", "Sharing"):
    gymnasium.register(
        id=f"matryo/{_world}-v0",
        entry_point="matryo.empathy.envs.single:GridworldEnv",
        vector_entry_point="matryo.empathy.envs.vector:GridworldVectorEnv",
        kwargs={"world": _world.lower()},
    )
