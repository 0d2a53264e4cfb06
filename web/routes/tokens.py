"""POST /v1/tokenize, /v1/detokenize and TEI's /decode: the model's own tokenizer, which no text waits for a device for."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response

from shared.errors import EngineFailed, InvalidParameter, LaneFull, ModelNotFound, ModelNotReady
from shared.interactive import Answer
from web import openai
from web.asking import ask, one_of, read_ids, read_json, read_texts
from web.openapi import Returns, Takes, describe
from web.parts import parts
from web.tokens import (
    ID_NAMES,
    TEXT_NAMES,
    DetokenizeBody,
    DetokenizeFields,
    DetokenizeObject,
    Token,
    TokenizeBody,
    TokenizeFields,
    TokenizeObject,
    tei_tokens,
    tokenize_object,
)

blueprint = Blueprint("tokenize", __name__)

_FAILS = [InvalidParameter, ModelNotFound, LaneFull, EngineFailed]


@blueprint.post("/v1/tokenize")
@blueprint.post("/tokenize")
@describe(
    takes=Takes(schema=TokenizeBody, example={"model": "all-MiniLM-L6-v2", "content": "a river"}),
    returns=Returns(
        schema=TokenizeObject | list[list[Token]],
        description="`{model, tokens, count, max_model_len}`; for `inputs` a list of tokens for each text.",
    ),
    fails=_FAILS,
)
def tokenize() -> Response:
    """The tokens of a text, or how many they are, as the model counts them."""
    given = read_json()
    fields = openai.read_fields(TokenizeFields, given)
    openai.check_prompt(fields.input_type, fields.prompt_name)
    name = one_of(given, *TEXT_NAMES)
    texts = read_texts(name, given[name], may_be_empty=True)
    model = parts().registry.get(fields.model)
    answer = ask(
        model,
        texts,
        kind="tokenize",
        special_tokens=fields.add_special_tokens is not False,
        detail=fields.detail(name),
        input_type=fields.input_type,
        prompt_name=fields.prompt_name,
    )
    _check(answer)
    if name == "inputs":
        return _json(tei_tokens(texts, answer))
    return _json(tokenize_object(model.name, answer, fields, is_list=type(given[name]) is list))


@blueprint.post("/v1/detokenize")
@blueprint.post("/detokenize")
@describe(
    takes=Takes(schema=DetokenizeBody, example={"model": "all-MiniLM-L6-v2", "tokens": [1037, 2314]}),
    returns=DetokenizeObject,
    fails=_FAILS,
)
def detokenize() -> Response:
    """The text of token ids."""
    model, answer, is_list = _joined()
    text = list(answer.texts) if is_list else answer.texts[0]
    return _json({"model": model, "content": text, "prompt": text})


@blueprint.post("/decode")
@describe(takes=Takes(schema=DetokenizeBody, example={"ids": [[1037, 2314]]}), returns=list[str], fails=_FAILS)
def decode() -> Response:
    """The texts of token ids, as Text Embeddings Inference answers: always a list."""
    return _json(list(_joined()[1].texts))


def _joined() -> tuple[str, Answer, bool]:
    given = read_json()
    fields = openai.read_fields(DetokenizeFields, given)
    name = one_of(given, *ID_NAMES)
    lists, is_list = read_ids(name, given[name])
    model = parts().registry.get(fields.model)
    answer = ask(model, kind="detokenize", token_ids=lists, special_tokens=fields.skip_special_tokens is False)
    _check(answer)
    return model.name, answer, is_list


def _check(answer: Answer) -> None:
    """A worker of an older version embeds whatever it is asked."""
    if answer.max_tokens is None:
        raise ModelNotReady("the worker is of a version that does not tokenize; it is being replaced", retry_after_s=5)


def _json(body: Any) -> Response:
    return Response(orjson.dumps(body), content_type=openai.JSON)
