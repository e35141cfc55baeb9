"""A trained ensemble on disk: safetensors, with what its members are in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from matryo.empathy.agents.config import LearnConfig, MemberConfig
from matryo.empathy.agents.empathic import EmpathicDQN
from matryo.spine.config import from_dict, to_dict

ABOUT = "matryo.empathy"


def save_agent(agent: EmpathicDQN, path: Path) -> None:
    """Write an ensemble, optimiser included."""
    about = {"planes": agent.view[0], "others": agent.others}
    about |= {"members": to_dict(agent.members), "learn": to_dict(agent.config)}
    save_file({k: v.contiguous() for k, v in agent.state().items()}, path, {ABOUT: json.dumps(about)})


def load_agent(path: Path) -> EmpathicDQN:
    """Read what `save_agent` wrote.

    Raises:
        OSError: there is no such file.
        ValueError: it is no saved ensemble.
    """
    try:
        with safe_open(path, "pt") as file:
            about: dict[str, Any] = json.loads((file.metadata() or {})[ABOUT])
            members = [from_dict(MemberConfig, item) for item in about["members"]]
            agent = EmpathicDQN(members, about["planes"], about["others"], from_dict(LearnConfig, about["learn"]))
            agent.restore({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118 - no mapping
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no saved ensemble ({error}); expected a file of `matryo empathy train`") from None
    return agent
