"""Serves the page with Gradio: on the loopback address, with bounded uploads, and nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import gradio as gr
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from m3.app.folders import OwnFolder
from m3.app.limits import MAX_QUEUE, MAX_UPLOAD_MB
from m3.app.page import CSS, THEME, build
from m3.app.worker import Worker

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


class MakeRoom:
    """Removes the oldest uploads before a new one is taken, so that they never fill the disk."""

    def __init__(self, app: App, own: OwnFolder) -> None:
        self._app, self._own = app, own

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].endswith("/upload"):
            self._own.make_room()
        await self._app(scope, receive, send)


def launch(
    worker: Worker, own: OwnFolder, facts: dict[str, Any], port: int | None, is_opened: bool
) -> tuple[gr.Blocks, str]:
    """Serves the page. Returns it and its address.

    In a Hugging Face Space (SPACE_ID), where only its own proxy reaches the process, it listens on all addresses.
    """
    is_space = "SPACE_ID" in os.environ
    middleware = [Middleware(MakeRoom, own=own)]
    if not is_space:  # other names for this machine are those of somebody else's page
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"]))
    blocks = build(worker, own, facts)
    blocks.queue(max_size=MAX_QUEUE, default_concurrency_limit=1)
    _, url, _ = blocks.launch(
        server_name="0.0.0.0" if is_space else "127.0.0.1",
        server_port=port,
        share=False,
        inbrowser=is_opened,
        prevent_thread_lock=True,
        quiet=True,
        show_error=True,
        max_file_size=f"{MAX_UPLOAD_MB}mb",
        theme=THEME,
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        app_kwargs={"middleware": middleware},
    )
    return blocks, url
