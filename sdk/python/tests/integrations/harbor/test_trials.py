"""Trials and jobs of Harbor in sandboxes, with its oracle and with a scripted agent."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from harbor.job import Job
from harbor.models.job.config import JobConfig
from harbor.models.trial.config import AgentConfig, EnvironmentConfig, TaskConfig, TrialConfig
from harbor.models.trial.result import TrialResult
from harbor.trial.trial import Trial
from isorun import AsyncSandbox
from scripted import scripted
from support import LiveSandboxes, relayed

ENVIRONMENT = "isorun.integrations.harbor:IsorunEnvironment"

pytestmark = [
    pytest.mark.usefixtures("live_sandboxes"),
    # The framework uses a deprecated property of its own.
    pytest.mark.filterwarnings("ignore:Task.checksum will be deprecated:DeprecationWarning"),
]


def trial_config(task: Path, agent: AgentConfig, **environment: Any) -> TrialConfig:
    return TrialConfig(
        task=TaskConfig(path=task),
        trials_dir=task.parent / "trials",
        agent=agent,
        environment=EnvironmentConfig(import_path=ENVIRONMENT, **environment),
    )


async def run(config: TrialConfig) -> TrialResult:
    return await (await Trial.create(config)).run()


def trial_dir(result: TrialResult) -> Path:
    return result.config.trials_dir / result.trial_name


def reward(result: TrialResult) -> float | None:
    assert result.exception_info is None, result.exception_info.exception_traceback
    rewards = result.verifier_result and result.verifier_result.rewards
    return None if not rewards else rewards["reward"]


def outputs(result: TrialResult) -> list[str]:
    assert result.agent_result is not None and result.agent_result.metadata is not None
    recorded: list[str] = result.agent_result.metadata["outputs"]
    return recorded


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


async def test_the_solution_of_a_task_gets_its_reward(task: Path) -> None:
    result = await run(trial_config(task, AgentConfig(name="oracle")))
    assert reward(result) == 1
    directory = trial_dir(result)
    assert (directory / "agent/oracle.txt").read_text() == "solving\n"
    assert (directory / "verifier/test-stdout.txt").read_text() == "verified as root in /srv\n"


async def test_an_agent_without_the_solution_gets_none(task: Path) -> None:
    agent = scripted("echo 5051 > answer; ls; ls /tmp", "exit 3")
    result = await run(trial_config(task, agent))
    assert reward(result) == 0
    assert outputs(result) == ["answer\nlimit\nis-set-up\n0", "3"]


async def test_users_and_variables_of_a_task(task: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASK_TOKEN", "it's $secret")
    (task / "task.toml").write_text(
        (task / "task.toml").read_text()
        + 'env = { TOKEN = "${TASK_TOKEN}" }\n'
        + '[agent]\nuser = "agent"\n[verifier]\nuser = "agent"\n'
    )
    # The verifier of the task does not run as root.
    agent = scripted(
        'echo "$(whoami) $HOME $TOKEN $OF_AGENT"',
        "echo 5050 > answer",
        "echo log > /logs/agent/log; echo artifact > /logs/artifacts/artifact",
        env={"OF_AGENT": "yes"},
    )
    result = await run(trial_config(task, agent))
    assert outputs(result) == [
        "agent /home/agent it's $secret yes\n0",
        "/bin/bash: line 1: answer: Permission denied\n1",
        "0",
    ]
    assert reward(result) == 0
    directory = trial_dir(result)
    assert (directory / "verifier/test-stdout.txt").read_text().endswith("agent in /srv\n")
    assert (directory / "agent/log").read_text() == "log\n"
    assert (directory / "artifacts/logs/artifacts/artifact").read_text() == "artifact\n"
    # No file of the trial contains a secret of the task.
    for path in directory.rglob("*.json"):
        assert "$secret" not in path.read_text() or path.name == "result.json", path


async def test_a_verifier_with_a_sandbox_of_its_own(task: Path) -> None:
    (task / "task.toml").write_text(
        'artifacts = ["/srv/answer"]\n'
        + (task / "task.toml").read_text()
        + '[verifier]\nenvironment_mode = "separate"\n'
    )
    # What the agent started or changed elsewhere is not in the sandbox of the verifier.
    agent = scripted("echo 5050 > answer; echo > /tests", "sleep 600 >/dev/null 2>&1 &")
    result = await run(trial_config(task, agent))
    assert reward(result) == 1


async def test_each_phase_has_its_network_policy(task: Path, server: Any) -> None:
    append(
        task / "task.toml",
        'network_mode = "no-network"\n[agent]\nnetwork_mode = "allowlist"\n'
        'allowed_hosts = ["example.com"]\n',
    )
    seen: list[Any] = []
    trial = await Trial.create(trial_config(task, scripted("true")))

    def shown() -> Any:
        sandbox = getattr(trial.agent_environment, "sandbox")
        headers = {"authorization": f"Bearer {server.key}"}
        body = httpx.get(f"{server.url}/v1/runs/{sandbox.id}/network", headers=headers).json()
        return body["profile"], body["allow"]

    agent_run, verify = trial.agent.run, trial._run_shared_verifier

    async def observed_run(*args: Any, **kwargs: Any) -> None:
        seen.append(shown())
        await agent_run(*args, **kwargs)

    async def observed_verify(*args: Any, **kwargs: Any) -> Any:
        seen.append(shown())
        return await verify(*args, **kwargs)

    setattr(trial.agent, "run", observed_run)
    setattr(trial, "_run_shared_verifier", observed_verify)
    assert reward(await trial.run()) == 0
    assert seen == [(None, ["example.com"]), ("locked-down", [])]


async def test_the_steps_of_a_task_share_a_sandbox(task: Path) -> None:
    append(task / "task.toml", '[[steps]]\nname = "first"\n[[steps]]\nname = "second"\n')
    (task / "instruction.md").unlink()
    for name in ("first", "second"):
        (task / "steps" / name).mkdir(parents=True)
        (task / "steps" / name / "instruction.md").write_text(f"Do the {name} step.\n")
    result = await run(trial_config(task, scripted("echo step >> steps; cat steps")))
    assert result.exception_info is None and result.step_results is not None
    recorded = [(each.agent_result or result.agent_result) for each in result.step_results]
    texts = [each.metadata["outputs"] for each in recorded if each and each.metadata]
    assert texts == [["step\n0"], ["step\nstep\n0"]]


async def test_a_job_runs_trials_side_by_side(task: Path, tmp_path: Path) -> None:
    job = await Job.create(
        JobConfig(
            job_name="job",
            jobs_dir=tmp_path / "jobs",
            n_attempts=3,
            n_concurrent_trials=6,
            quiet=True,
            agents=[AgentConfig(name="oracle"), scripted("echo 1 > answer")],
            tasks=[TaskConfig(path=task)],
            environment=EnvironmentConfig(import_path=ENVIRONMENT, override_memory_mb=256),
        )
    )
    done = await job.run()
    assert done.stats.n_completed_trials == 6 and done.stats.n_errored_trials == 0
    results = [
        json.loads(path.read_text()) for path in (tmp_path / "jobs/job").glob("*/result.json")
    ]
    rewards = sorted(result["verifier_result"]["rewards"]["reward"] for result in results)
    assert rewards == [0, 0, 0, 1, 1, 1]


def test_the_command_runs_a_job(task: Path, tmp_path: Path) -> None:
    harbor = Path(sys.executable).with_name("harbor")
    done = subprocess.run(
        [str(harbor), "run", "--path", str(task), "--agent", "oracle", "--env", ENVIRONMENT]
        + ["--ek", "sandbox_timeout=600", "--jobs-dir", str(tmp_path / "jobs"), "--quiet", "--yes"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (written,) = (tmp_path / "jobs").glob("*/*/result.json")
    assert json.loads(written.read_text())["verifier_result"]["rewards"] == {"reward": 1.0}


# Failures.


async def test_a_trial_without_a_server_fails(task: Path, no_server: None) -> None:
    result = await run(trial_config(task, AgentConfig(name="oracle")))
    assert result.exception_info is not None
    assert result.exception_info.exception_type == "IsorunConnectionError"
    assert "isorun serve" in result.exception_info.exception_message


async def test_a_trial_whose_server_goes_away_fails(task: Path, server: Any) -> None:
    async with relayed(server.url) as relay:
        config = trial_config(
            task, scripted("touch started; sleep 60"), kwargs={"api_url": relay.url}
        )
        trial = await Trial.create(config)
        running = asyncio.create_task(trial.run())
        sandbox_id = await until_started(trial, server)
        await relay.stop()
        result = await running
    assert result.exception_info is not None
    assert result.exception_info.exception_type == "IsorunConnectionError"
    await (await AsyncSandbox.connect(sandbox_id)).destroy()


async def test_a_trial_whose_sandbox_is_gone_fails(task: Path, server: Any) -> None:
    trial = await Trial.create(trial_config(task, scripted("touch started; sleep 60")))
    running = asyncio.create_task(trial.run())
    await (await AsyncSandbox.connect(await until_started(trial, server))).destroy()
    result = await running
    assert result.exception_info is not None
    assert result.exception_info.exception_type == "IsorunError"
    assert "destroyed" in result.exception_info.exception_message
    assert server.key not in (trial_dir(result) / "result.json").read_text()


async def test_an_agent_that_takes_too_long_is_stopped(task: Path) -> None:
    append(task / "task.toml", "[agent]\ntimeout_sec = 1.5\n")
    result = await run(trial_config(task, scripted("echo 5050 > answer; sleep 60")))
    assert result.exception_info is not None
    assert result.exception_info.exception_type == "AgentTimeoutError"
    # What it has done until then is verified, as with other environments.
    assert result.verifier_result is not None
    assert result.verifier_result.rewards == {"reward": 1.0}


async def test_a_cancelled_trial_leaves_no_sandbox(
    task: Path, server: Any, live_sandboxes: LiveSandboxes
) -> None:
    trial = await Trial.create(trial_config(task, scripted("touch started; sleep 60")))
    running = asyncio.create_task(trial.run())
    sandbox_id = await until_started(trial, server)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert sandbox_id not in live_sandboxes.ids()


async def test_a_trial_keeps_its_sandbox_on_request(
    task: Path, live_sandboxes: LiveSandboxes
) -> None:
    before = live_sandboxes.ids()
    assert reward(await run(trial_config(task, AgentConfig(name="oracle"), delete=False))) == 1
    (left,) = live_sandboxes.ids() - before
    assert live_sandboxes.status(left) == "hibernated"
    async with await AsyncSandbox.connect(left) as sandbox:
        await sandbox.resume()
        assert (await sandbox.exec("cat answer")).stdout == "5050\n"


async def until_started(trial: Trial, server: Any) -> str:
    """Waits until the agent has created the file `started`, and returns the sandbox's id."""
    while (sandbox := getattr(trial.agent_environment, "sandbox")) is None:
        await asyncio.sleep(0.05)
    sandbox_id: str = sandbox.id
    other = await AsyncSandbox.connect(sandbox_id, api_url=server.url, api_key=server.key)
    while "started" not in await other.ls("/srv"):
        await asyncio.sleep(0.05)
    await other.close()
    return sandbox_id
