"""The input of OpenAI's batches: a request a line, {custom_id, method, url, body}; a row for each text of each request.

What is wrong with the file (no JSON, an id twice, another model) is found in all of its lines before any row is embedded, and
the batch fails. What is wrong with one request's body is that request's own error, and the others are answered.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import orjson
import pyarrow as pa

from shared.errors import BadRequest, InvalidParameter
from shared.intake.lines import OVERLONG, split_lines
from shared.intake.records import MAX_ID_CHARACTERS, Options, Record, UnreadableInput, bad
from shared.openai import EmbeddingsRequest, EncodingFormat, read_embeddings

ENDPOINT = "/v1/embeddings"
# OpenAI's limit of one request.
MAX_INPUTS_OF_LINE = 2048
# A line is in memory whole; a synchronous request may be about as large.
MAX_LINE_BYTES = 16 * 2**20
# Whoever wrote the file learns as much from so many errors as from all.
MAX_ERRORS = 100
# A file that names its model no earlier than this names none.
MAX_PEEK_BYTES = 2 * MAX_LINE_BYTES
# Every row of a job is embedded alike.
_OF_A_JOB = ("input_type", "prompt_name", "truncate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row stands in its request, and how its request wants the vectors: the metadata of a batch's row."""

    position: int = 0  # among the inputs of its line
    of: int = 1  # inputs of its line
    dimensions: int | None = None
    encoding_format: EncodingFormat | None = None

    def to_json(self) -> str:
        """For the row."""
        return orjson.dumps([self.position, self.of, self.dimensions, self.encoding_format]).decode()

    @classmethod
    def from_json(cls, raw: str | None) -> Self:
        """What `to_json` wrote; an error row has none, and stands for its whole line."""
        if raw is None:
            return cls()
        position, of, dimensions, encoding_format = orjson.loads(raw)
        return cls(position=position, of=of, dimensions=dimensions, encoding_format=encoding_format)


def count_requests(rows: pa.Table) -> tuple[int, int]:
    """Of an output shard: the requests whose last row lies in it, and those of them that have an error row in it."""
    lines = rows["line"].to_numpy()
    is_failed = rows["error"].is_valid().to_numpy()
    failed = np.unique(lines[is_failed])
    requests = np.unique(lines)
    last = Place.from_json(rows["metadata"][-1].as_py())
    if last.position + 1 < last.of:  # it goes on in the next shard
        requests, failed = requests[requests != lines[-1]], failed[failed != lines[-1]]
    return len(requests), len(failed)


def first_model(blocks: Iterable[bytes]) -> str | None:
    """The model that the first readable line names; None if none does near the beginning."""
    seen_bytes = 0
    for line in split_lines(blocks, MAX_LINE_BYTES):
        seen_bytes += len(line)
        if line and line is not OVERLONG:
            try:
                model = orjson.loads(line)["body"]["model"]
            except (orjson.JSONDecodeError, KeyError, TypeError, IndexError):
                model = None
            if type(model) is str and model:
                return model
        if seen_bytes > MAX_PEEK_BYTES:
            return None
    return None


def parse(blocks: Iterable[bytes], options: Options) -> Iterator[Record]:
    """The rows of every line, in order. Raises UnreadableInput, with an error for each wrong line, after the last of them.

    The limits and the model of the batch stand in its job.
    """
    assert options.job is not None, "a batch is read for its job"
    assert options.job.batch is not None, "the job is a batch"
    reader = _Reader(options.job.batch, options.max_text_bytes)
    for number, line in enumerate(split_lines(blocks, MAX_LINE_BYTES), 1):
        if not line.strip() and line is not OVERLONG:
            continue
        # Nothing is embedded once the file is known to be wrong: only its other errors are of interest.
        records = reader.read(number, line)
        if not reader.errors:
            yield from records
        elif len(reader.errors) >= MAX_ERRORS:
            break
    if not reader.requests and not reader.errors:
        reader.wrong(None, "empty_file", "the file has no requests in it")
    if reader.errors:
        raise UnreadableInput(str(reader.errors[0]["message"]), code=str(reader.errors[0]["code"]), errors=reader.errors)


class _WrongLine(Exception):
    """A line that makes its whole file unusable."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class _Reader:
    """The lines so far: their ids, how many requests and inputs they were, what was wrong with them."""

    def __init__(self, batch: dict[str, str | int], max_text_bytes: int) -> None:
        self._model = str(batch["model"])
        self._endpoint = str(batch["endpoint"])
        self._max_requests = int(batch["max_requests"])
        self._max_inputs = int(batch["max_inputs"])
        self._max_text_bytes = max_text_bytes
        self._ids: set[str] = set()
        self._inputs = 0
        self.requests = 0
        self.errors: list[dict[str, str | int | None]] = []

    def read(self, number: int, line: bytes) -> list[Record]:
        """The rows of a line; none if it is wrong, which is added to the errors."""
        self.requests += 1
        try:
            if self.requests > self._max_requests:
                raise _WrongLine("too_many_tasks", f"a batch has at most {self._max_requests} requests")
            request = self._request(line)
            records = self._rows(number, request["custom_id"], request["body"])
            self._inputs += len(records)
            if self._inputs > self._max_inputs:
                raise _WrongLine("too_many_inputs", f"a batch has at most {self._max_inputs} inputs in all of its requests")
            return records
        except _WrongLine as wrong:
            self.wrong(number, wrong.code, wrong.message, wrong.param)
            if wrong.code in ("too_many_tasks", "too_many_inputs"):
                # Each further line would be wrong in the same way.
                raise UnreadableInput(wrong.message, code=wrong.code, line=number, errors=self.errors) from None
            return []

    def wrong(self, line: int | None, code: str, message: str, param: str | None = None) -> None:
        """Note what is wrong with the file."""
        self.errors.append({"code": code, "message": message, "line": line, "param": param})

    def _request(self, line: bytes) -> dict[str, Any]:
        if line is OVERLONG:
            raise _WrongLine("line_too_long", f"the line is over {MAX_LINE_BYTES} bytes")
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise _WrongLine("invalid_json_line", "the line is not valid JSON in UTF-8") from None
        if type(request) is not dict:
            raise _WrongLine("invalid_json_line", "the line is not a JSON object")
        self._check_id(request.get("custom_id"))
        if request.get("method") != "POST":
            raise _WrongLine("invalid_method", "the method must be POST", "method")
        if request.get("url") != self._endpoint:
            raise _WrongLine("url_mismatch", f"the url must be {self._endpoint}, the endpoint of the batch", "url")
        body = request.get("body")
        if type(body) is not dict:
            raise _WrongLine("missing_required_parameter", "the body must be a JSON object", "body")
        model = body.get("model")
        if type(model) is str and model != self._model:
            raise _WrongLine("model_mismatch", "every request of a batch must name the same model", "body.model")
        return request

    def _check_id(self, custom_id: Any) -> None:
        if custom_id is None:
            raise _WrongLine("missing_required_parameter", "there is no custom_id", "custom_id")
        if type(custom_id) is not str or not 1 <= len(custom_id) <= MAX_ID_CHARACTERS:
            raise _WrongLine("invalid_custom_id", f"the custom_id must be 1 to {MAX_ID_CHARACTERS} characters", "custom_id")
        if custom_id in self._ids:
            raise _WrongLine("duplicate_custom_id", "the custom_id stands in an earlier line too", "custom_id")
        self._ids.add(custom_id)

    def _rows(self, number: int, custom_id: str, body: dict[str, Any]) -> list[Record]:
        try:
            request = self._body(body)
        except BadRequest as wrong:
            return [bad(number, wrong.reason, wrong.message, wrong.param, record_id=custom_id)]
        fields, of = request.fields, len(request.texts)
        return [
            Record(
                number,
                custom_id,
                text,
                Place(position=position, of=of, dimensions=fields.dimensions, encoding_format=fields.encoding_format).to_json(),
                None,
            )
            for position, text in enumerate(request.texts)
        ]

    def _body(self, body: dict[str, Any]) -> EmbeddingsRequest:
        if body.get("model") is None:
            raise InvalidParameter("model: is required", param="model", code="missing_required_parameter")
        request = read_embeddings(body, max_inputs=MAX_INPUTS_OF_LINE, max_text_bytes=self._max_text_bytes)
        for name in _OF_A_JOB:
            if getattr(request.fields, name) is not None:
                message = f"{name}: not in a line of a batch; submit a job instead, where it goes for all texts"
                raise InvalidParameter(message, param=name, code="unsupported_parameter")
        if request.token_ids:
            raise InvalidParameter("input: a batch takes texts, not token ids", param="input", code="token_ids_not_supported")
        return request
