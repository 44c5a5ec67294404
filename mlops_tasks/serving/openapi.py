"""The model that serves to an OpenAPI 3.1 document: what people and tools need to ask it."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING, Any

from mlops_tasks.serving.encoding import output_names
from mlops_tasks.serving.exchange import BINARY_TYPE, ID_PATTERN, INVOCATIONS, JSON_TYPE
from mlops_tasks.serving.tensors import DATATYPES

if TYPE_CHECKING:
    from mlops_tasks.core.scoring import ModelSignature
    from mlops_tasks.serving.slot import LoadedModel

Document = dict[str, Any]

TEXT: Document = {"type": "string"}
NUMBER_OR_NULL: Document = {"type": ["number", "null"]}
TEXT_OR_NULL: Document = {"type": ["string", "null"]}
PARAMETERS = {
    "type": "object",
    "description": "`binary_data_size`, `binary_data`, `binary_data_output`; others say nothing here",
}
REQUEST_ID = {
    "name": "x-request-id",
    "in": "header",
    "description": "id of the prediction, where the body has none; labels are joined by it",
    "schema": {"type": "string", "pattern": ID_PATTERN},
}
ENTITY_KEY = {
    "name": "x-entity-key",
    "in": "header",
    "description": "what stays together in a canary",
    "schema": {"type": "string", "pattern": "^[!-~]{1,256}$"},
}


def openapi_document(model: LoadedModel, versions: list[int], max_body_bytes: int) -> Document:
    """Describe a server; `versions` are those that are loaded."""
    signature, one = model.signature, f"/v2/models/{model.name}"
    version = {"name": "version", "in": "path", "required": True, "schema": {"enum": [str(number) for number in versions]}}
    described, infer = _get("Inputs and outputs", "ModelMetadata", model=True), _infer()
    ready = _get("Whether a model serves", "Ready", model=True)
    paths = {
        f"{one}/infer": {"post": infer},
        f"{one}/versions/{{version}}/infer": {"parameters": [version], "post": infer},
        INVOCATIONS: {"post": _invocations()},
        one: {"get": described},
        f"{one}/versions/{{version}}": {"parameters": [version], "get": described},
        f"{one}/ready": {"get": ready},
        f"{one}/versions/{{version}}/ready": {"parameters": [version], "get": ready},
        "/v2": {"get": _get("What the server speaks", "ServerMetadata")},
        "/v2/health/live": {"get": _get("Whether the process answers", "Live")},
        "/v2/health/ready": {"get": ready},
        "/v2/repository/index": {"post": _control("What is loaded", "RepositoryIndexRequest", "RepositoryIndex", 413)},
        f"/v2/repository/models/{model.name}/load": {
            "post": _control("Look at the registry now", "LoadRequest", "Loaded", 409, 413, 503)
        },
    }
    about = f"Predicts `{signature.target}` ({signature.task}). Bodies of up to {max_body_bytes} bytes are read."
    info = {"title": model.name, "version": str(model.version), "description": about}
    schemas = _schemas(signature) | _control_schemas()
    return {
        "openapi": "3.1.0",
        "info": info | {"x-server-version": metadata.version("mlops-tasks")},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _reference(name: str) -> Document:
    return {"$ref": f"#/components/schemas/{name}"}


def _content(name: str) -> Document:
    return {JSON_TYPE: {"schema": _reference(name)}}


def _answers(schema: str, *errors: int, error: str = "Error", binary: bool = False) -> Document:
    content = _content(schema) | ({BINARY_TYPE: {}} if binary else {})
    refused = {str(status): {"description": "said in a sentence", "content": _content(error)} for status in errors}
    return {"200": {"description": "the answer", "content": content}, **refused}


def _get(summary: str, schema: str, *, model: bool = False) -> Document:
    return {"summary": summary, "responses": _answers(schema, *((404, 503) if model else ()))}


def _infer() -> Document:
    return {
        "summary": "Predict: Open Inference Protocol v2, with its binary tensor data extension",
        "parameters": [REQUEST_ID, ENTITY_KEY],
        "requestBody": {"required": True, "content": _content("InferRequest")},
        "responses": _answers("InferResponse", 400, 404, 413, 415, 503, binary=True),
    }


def _invocations() -> Document:
    content = _content("Invocation") | {"text/csv": {"schema": {"type": "string"}}}
    return {
        "summary": "Predict: as MLflow's clients ask",
        "parameters": [REQUEST_ID, ENTITY_KEY],
        "requestBody": {"required": True, "content": content},
        "responses": _answers("Predictions", 400, 413, 415, 503, error="MlflowError"),
    }


def _control(summary: str, asked: str, answered: str, *errors: int) -> Document:
    body = {"required": False, "content": _content(asked)}
    return {"summary": summary, "requestBody": body, "responses": _answers(answered, 400, *errors)}


def _object(required: list[str], /, **properties: Document) -> Document:
    return {"type": "object", "required": required, "properties": properties}


def _list(items: Document, **bounds: int) -> Document:
    return {"type": "array", "items": items, **bounds}


def _schemas(signature: ModelSignature) -> dict[str, Document]:
    """Return what the model's own columns decide."""
    cells = dict.fromkeys(signature.numeric, NUMBER_OR_NULL) | dict.fromkeys(signature.categorical, TEXT_OR_NULL)
    row = {"type": "object", "required": list(cells), "properties": cells, "additionalProperties": False}
    columns = {name: _list(cell, minItems=1) for name, cell in cells.items()}
    split = _object(
        ["columns", "data"],
        columns=_list({"enum": list(cells)}, minItems=len(cells), maxItems=len(cells)) | {"uniqueItems": True},
        data=_list(_list({"type": ["number", "string", "null"]}, minItems=len(cells), maxItems=len(cells)), minItems=1),
        index=_list({}),
    )
    forms: dict[str, Document] = {
        "dataframe_split": split,
        "dataframe_records": _list(_reference("Row"), minItems=1),
        "instances": _list(_reference("Row"), minItems=1),
        "inputs": {"type": "object", "required": list(columns), "properties": columns, "additionalProperties": False},
    }
    shape = _list({"type": "integer", "minimum": 0}, minItems=1, maxItems=2)
    form = {"datatype": {"enum": sorted(DATATYPES)}, "shape": shape, "parameters": PARAMETERS}
    score: Document = NUMBER_OR_NULL  # a model may give no number for what it never saw; JSON has no NaN
    return {
        "Row": row,
        "Invocation": {"oneOf": [_object([name], **{name: schema}) | {"title": name} for name, schema in forms.items()]},
        "Predictions": _object(["predictions"], predictions=_list(_list(score) if signature.task == "multiclass" else score)),
        "Tensor": _object(
            ["name", "datatype", "shape"],
            name={"type": "string", "examples": list(cells)},
            data={"type": "array"},
            **form,
        ),
        "InferRequest": _object(
            ["inputs"],
            id={"type": "string", "pattern": ID_PATTERN},
            inputs=_list(_reference("Tensor"), minItems=1),
            outputs=_list(_object(["name"], name={"enum": output_names(signature)}, parameters=PARAMETERS)),
            parameters=PARAMETERS,
        ),
        "InferResponse": _object(
            ["model_name", "model_version", "id", "outputs"],
            model_name=TEXT,
            model_version=TEXT,
            id=TEXT,
            outputs=_list(_object(["name", "datatype", "shape"], name={"enum": output_names(signature)}, **form)),
        ),
    }


def _control_schemas() -> dict[str, Document]:
    """Return what is the same for each model."""
    tensors = _list(_object(["name", "datatype", "shape"], name=TEXT, datatype=TEXT, shape=_list({"type": "integer"})))
    role: Document = {"enum": ["champion", "challenger"]}
    number: Document = {"type": "integer", "minimum": 1}
    asked = _object([], version=number, role=role) | {"additionalProperties": False}
    entry = _object(["name", "version", "state", "reason"], name=TEXT, version=TEXT, state=TEXT, reason=TEXT)
    return {
        "Error": _object(["error"], error=TEXT),
        "MlflowError": _object(["error_code", "message"], error_code=TEXT, message=TEXT),
        "Live": _object(["live"], live={"type": "boolean"}),
        "Ready": _object(["ready"], ready={"type": "boolean"}, name=TEXT, model_version=TEXT, problem=TEXT),
        "ServerMetadata": _object(["name", "version", "extensions"], name=TEXT, version=TEXT, extensions=_list(TEXT)),
        "ModelMetadata": _object(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=TEXT,
            versions=_list(TEXT),
            platform=TEXT,
            inputs=tensors,
            outputs=tensors,
        ),
        "RepositoryIndexRequest": _object([], ready={"type": "boolean"}),
        "RepositoryIndex": _list(entry),
        "LoadRequest": _object([], parameters=asked),
        "Loaded": _object(
            ["name", "version", "role", "pause_s", "mode"],
            name=TEXT,
            version=number,
            role=role,
            pause_s={"type": "number", "minimum": 0},
            mode=TEXT,
        ),
    }
