"""docs/recipes/express.md, with the real Express; and a library of Node's that checks what Meta sends."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.conftest import blocks
from tests.workers.destinations.test_posting import cloud, text

SECRET = "the same as in WEBHOOK_SECRET"
PACKAGES = ("express@5", "whatsapp-api-js@6")

LIBRARY = """
import express from "express";
import { WhatsAppAPI } from "whatsapp-api-js/middleware/express";

const bot = new WhatsAppAPI({ token: "token", appSecret: process.env.WEBHOOK_SECRET, v: "v24.0" });
bot.on.message = ({ message }) => console.log(message.from, JSON.stringify(message.text.body));
const app = express();
app.post("/webhook", express.text({ type: "*/*" }), async (request, response) => {
  response.sendStatus(await bot.handle_post(request));
});
app.listen(process.env.PORT);
"""


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder node_modules with the packages."""
    folder = tmp_path_factory.mktemp("npm")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=90)
    except subprocess.TimeoutExpired:
        pytest.skip("no package registry answers")
    if done.returncode != 0:
        pytest.skip(f"not to be installed here: {(done.stderr or done.stdout)[-200:]}")
    return folder / "node_modules"


@pytest.mark.parametrize("code", [*blocks("express.md", "js"), LIBRARY], ids=["the page's", "whatsapp-api-js"])
def test_express(
    code: str,
    modules: Path,
    recipe: Callable[..., Path],
    program: Any,
    drain: Any,
    commit: Any,
    dead: Any,
    free_port: Callable[[], int],
    tmp_path: Path,
) -> None:
    """It accepts what is signed with its secret, and reads the text; it refuses what is signed with another one."""
    (tmp_path / "app.mjs").write_text(code)
    (tmp_path / "node_modules").symlink_to(modules)
    port = free_port()
    program(port, "node", "app.mjs", cwd=tmp_path, env=os.environ | {"PORT": str(port), "WEBHOOK_SECRET": SECRET})
    file = recipe("express.md", f"http://127.0.0.1:{port}")
    commit(*[cloud(text(f"m{n}") | {"text": {"body": f"Grüße {n} 😀"}}) for n in range(3)])
    drain(file)
    said = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("1555")]
    assert said == [f'15550001 "Grüße {n} 😀"' for n in range(3)]
    assert dead("messages") == []
    file.write_text(file.read_text().replace(SECRET, "another"))
    commit(cloud(text("m4")))
    drain(file)
    (letter,) = dead("messages")
    assert letter["detail"].startswith(("answered 401", "answered 403"))
