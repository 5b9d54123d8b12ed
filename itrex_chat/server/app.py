"""The routes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from itrex_chat import __version__
from itrex_chat.foundation.language import _
from itrex_chat.server import answering, chat, collecting, completions, errors, page, responses
from itrex_chat.server.calling import Tools
from itrex_chat.server.errors import ApiError
from itrex_chat.server.protocol import (
    ChatRequest,
    CompletionRequest,
    DetokenizeRequest,
    ResponsesRequest,
    TokenizeRequest,
)
from itrex_chat.server.service import Service
from itrex_chat.server.streaming import Reply


def application(service: Service) -> FastAPI:
    """All routes. There are no pages of documentation: these would load scripts from elsewhere."""

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        unloading = asyncio.create_task(service.models.unload_idle())
        yield
        unloading.cancel()
        await service.models.close()

    app = FastAPI(title="itrex_chat", version=__version__, docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http_error)
    _add_openai(app, service)
    _add_tokenizer(app, service)
    _add_state(app, service)
    app.include_router(page.router())
    app.include_router(collecting.router(service))
    return app


def _add_openai(app: FastAPI, service: Service) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_described(model) for model in service.models.all.values()]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        return _described(service.models.find(name))

    @app.post("/v1/chat/completions", response_model=None)
    async def chat_completions(asked: ChatRequest, request: Request) -> Reply:
        return Reply(chat.made(asked, service, request.state.record), asked.stream)

    @app.post("/v1/completions", response_model=None)
    async def text_completions(asked: CompletionRequest, request: Request) -> Reply:
        return Reply(completions.made(asked, service, request.state.record), asked.stream)

    @app.post("/v1/responses", response_model=None)
    async def create_response(asked: ResponsesRequest, request: Request) -> Reply:
        return Reply(responses.made(asked, service, request.state.record), asked.stream)

    @app.get("/v1/responses/{name}")
    async def response(name: str) -> dict[str, Any]:
        return service.conversations.find(name).response

    @app.delete("/v1/responses/{name}")
    async def delete_response(name: str) -> dict[str, Any]:
        service.conversations.forget(name)
        return {"id": name, "object": "response", "deleted": True}


def _add_tokenizer(app: FastAPI, service: Service) -> None:
    @app.post("/tokenize")
    async def tokenize(asked: TokenizeRequest) -> dict[str, Any]:
        async with service.models.using(asked.model) as model:
            if asked.messages:
                messages = answering.conversation(turn.message() for turn in asked.messages)
                tools = Tools(asked, model, messages, "messages")
                ids = await answering.aside(lambda: answering.chat_ids(model, messages, tools.described))
            else:
                ids = await answering.aside(lambda: answering.named_ids(model, asked.prompt or ""))
            texts = None
            if asked.return_token_strs:
                await answering.aside(lambda: model.vocabulary.learn((), ids))
                texts = [model.vocabulary.name(token) for token in ids]
            return {"count": len(ids), "max_model_len": model.context, "tokens": ids, "token_strs": texts}

    @app.post("/detokenize")
    async def detokenize(asked: DetokenizeRequest) -> dict[str, Any]:
        async with service.models.using(asked.model) as model:
            size = model.driver.scheduler.decoder.config.vocab_size
            if unknown := [token for token in asked.tokens if token >= size]:
                raise errors.refused(
                    _("tokens has {token}, but the model has only {count}.", token=unknown[0], count=size), "tokens"
                )
            return {"prompt": await answering.aside(lambda: model.tokenizer.decode(asked.tokens))}

    @app.get("/tokenizer_info")
    async def tokenizer_info(model: str | None = None) -> dict[str, Any]:
        async with service.models.using(model) as found:
            files = await answering.aside(found.tokenizer.files)
            settings = json.loads(files.get("tokenizer_config.json", b"{}"))
            return {"tokenizer_class": None} | settings | {"model": found.name, "max_model_len": found.context}


def _add_state(app: FastAPI, service: Service) -> None:
    @app.get("/health/live")
    async def live() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/health")
    @app.get("/health/ready")
    async def ready() -> JSONResponse:
        stops = service.draining
        return JSONResponse({"status": "stops" if stops else "ok"}, 503 if stops else 200)

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _described(model: Any) -> dict[str, Any]:
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "itrex_chat",
        "loaded": model.loaded,
    }


async def _api_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return JSONResponse(error.content(), error.status, error.headers())


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return await _api_error(request, errors.of_validation(error.errors()))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        told = ApiError(404, _("There is nothing under this path."), code="not_found")
    elif error.status_code == 405:
        told = ApiError(405, _("This path does not take this method."), code="method_not_allowed")
    else:
        told = ApiError(error.status_code, _("The request cannot be read."))
    return await _api_error(request, told)
