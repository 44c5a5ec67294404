"""The pipeline `shop` of the small judged models, as a server knows it."""

from __future__ import annotations

from mlops_tasks.specs import PipelineSpec
from tests.judged_models import SCHEMA

PIPELINE = PipelineSpec.model_validate(
    {
        "name": "shop",
        "schedule": {"start": "2029-01-01T00:00:00Z"},
        "features": SCHEMA.model_dump(mode="json"),
        "collect": {
            "primary": "sales",
            "entity_key": ["shop"],
            "sources": {
                "sales": {
                    "path": "sales.csv",
                    "event_time": "at",
                    "columns": {"at": "timestamp", "shop": "string", "price": "float", "age": "float", "sold": "int"},
                }
            },
        },
        "preprocess": {
            "feature_schema": SCHEMA.model_dump(mode="json"),
            "primary": "sales",
            "primary_time": "at",
        },
    }
)
