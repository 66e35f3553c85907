"""An agent of Harbor that runs given commands instead of asking a model."""

from __future__ import annotations

from typing import Any

from harbor.agents.base import BaseAgent
from harbor.environments.base import BaseEnvironment
from harbor.models.agent.context import AgentContext
from harbor.models.trial.config import AgentConfig


class ScriptedAgent(BaseAgent):
    """An agent that runs commands, and records their outputs in its context."""

    def __init__(self, *args: Any, commands: list[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._commands = commands

    @staticmethod
    def name() -> str:
        return "scripted"

    def version(self) -> str:
        return "1"

    async def setup(self, environment: BaseEnvironment) -> None:
        result = await environment.exec("touch /tmp/is-set-up")
        assert result.return_code == 0, result.stderr

    async def run(
        self, instruction: str, environment: BaseEnvironment, context: AgentContext
    ) -> None:
        outputs: list[str] = []
        context.metadata = {"instruction": instruction, "outputs": outputs}
        for command in self._commands:
            result = await environment.exec(command)
            outputs.append(f"{result.stdout}{result.stderr}{result.return_code}")


def scripted(*commands: str, **options: Any) -> AgentConfig:
    """Returns the configuration of an agent that runs these commands."""
    return AgentConfig(
        import_path="scripted:ScriptedAgent", kwargs={"commands": list(commands)}, **options
    )
