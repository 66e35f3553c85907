"""The runtime `python-data`: an optional package with numpy and pandas."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import isola
import isola.sync

SALES = """
import io
import numpy as np
import pandas as pd

def totals(text):
    sales = pd.read_csv(io.StringIO(text))
    sums = sales.groupby("region")["amount"].sum()
    return {region: int(amount) for region, amount in sums.items()}

def draw():
    return int(np.random.randint(2**60))

async def running(numbers):
    return [number async for number in numbers]
"""


@pytest.fixture(scope="module")
def data() -> isola.SandboxTemplate:
    return asyncio.run(isola.build_template("python-data"))


async def test_a_table_is_grouped_and_its_sums_are_returned(data: isola.SandboxTemplate) -> None:
    assert data.runtime == "python-data"
    async with data.create() as sandbox:
        await sandbox.load_script(SALES)
        text = "region,amount\nnorth,10\nsouth,5\nnorth,7\n"
        assert await sandbox.run("totals", text) == {"north": 17, "south": 5}
        assert await sandbox.evaluate("int(pd.Series([2**62, 2**61]).sum())") == 2**62 + 2**61


async def test_the_language_of_the_runtime_is_python(data: isola.SandboxTemplate) -> None:
    async with data.create() as sandbox:
        await sandbox.load_script(SALES)
        assert await sandbox.run("running", isola.StreamArg.from_iterable([1, 2])) == [1, 2]
        context = await sandbox.contexts.create("python")
        assert context.language == "python"
        with pytest.raises(isola.InvalidArgumentError, match="this sandbox runs python, not `js`"):
            await sandbox.contexts.create("js")


async def test_random_numbers_of_copies_differ(data: isola.SandboxTemplate) -> None:
    async with data.create() as parent, data.create() as other:
        for sandbox in (parent, other):
            await sandbox.load_script(SALES)
        snapshot = await parent.snapshot()
        assert snapshot.runtime == "python-data"
        copies = [*await parent.fork(2), await data.restore(snapshot)]
        drawn = [await sandbox.run("draw") for sandbox in (parent, other, *copies)]
        assert len(set(drawn)) == len(drawn), drawn
        for copy in copies:
            copy.close()


async def test_a_snapshot_belongs_to_its_runtime(
    data: isola.SandboxTemplate, python: isola.SandboxTemplate
) -> None:
    async with data.create() as sandbox:
        snapshot = await sandbox.snapshot()
    with pytest.raises(isola.InvalidArgumentError, match="of python-data, but .* of python"):
        await python.restore(snapshot)


def test_the_sync_api_and_the_executor_have_the_runtime() -> None:
    template = isola.sync.build_template("python-data")
    with template.create() as sandbox:
        assert sandbox.evaluate("__import__('numpy').arange(5).tolist()") == [0, 1, 2, 3, 4]
    done = isola.sync.evaluate("import numpy\nint(numpy.ones(3).sum())", template=template)
    assert done.value == 3


@pytest.mark.parametrize("stale", [False, True])
def test_without_its_package_the_error_names_the_command(tmp_path: Path, stale: bool) -> None:
    """The package is missing, or was left in another version by an update of isola."""
    site = tmp_path / "site"
    installed = Path(isola.__file__).parents[1]
    for path in installed.glob("isola*"):
        if not path.name.startswith("isola_python_data"):
            shutil.copytree(path, site / path.name)
    if stale:
        info = site / "isola_python_data-0.0.1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            "Metadata-Version: 2.4\nName: isola-python-data\nVersion: 0.0.1\n"
        )
        (site / "isola_python_data").mkdir()
        (site / "isola_python_data" / "__init__.py").write_text("")
        (site / "isola_python_data" / "python-data.wasm").write_text("of another version")
    program = tmp_path / "program.py"
    # Nothing listens on this port.
    program.write_text(
        "import isola.sync as isola\n"
        "for version in (None, '9.9.9'):\n"
        "    try:\n"
        "        isola.build_template('python-data', version=version,\n"
        "                             download_url='http://127.0.0.1:1')\n"
        "    except isola.DownloadError as error:\n"
        "        print(error.code, error)\n"
    )
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("ISOLA_RUNTIME_DIR", "XDG_CACHE_HOME")
    }
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**environment, "HOME": str(tmp_path), "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    missing, other = done.stdout.splitlines()
    assert missing.startswith("download_failed ")
    assert missing.endswith('; install the runtime with: pip install "isola[data]"')
    # pip would install the version of the package.
    assert "pip install" not in other
