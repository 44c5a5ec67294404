"""A fitted model to an ONNX file that takes raw numbers and strings, large weights beside it; proof that it scores alike."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx import TensorProto, helper

from mlops_tasks.core.network import CategoricalOnly, NumericOnly, unfolded
from mlops_tasks.core.scoring import weights_file
from mlops_tasks.errors import ModelRejected

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy.typing as npt

    from mlops_tasks.artifacts import Task
    from mlops_tasks.core.baselines import Boosted
    from mlops_tasks.core.network import ScoringNetwork
    from mlops_tasks.core.transform import Transform

ML_DOMAIN, ML_OPSET = "ai.onnx.ml", 3
OPSET, IR_VERSION = 18, 10
BATCH = "rows"
BESIDE_FROM = 32 << 20
"""Bytes of weights from which they lie beside the graph and are mapped, not read: inside it they are in memory twice while it
loads, and a graph can't hold 2 GB. Below, one file is handier, and reading it takes hundredths of a second."""
INSIDE_BELOW = 64 << 10
"""Bytes of a tensor that stays in the graph in any case: shapes and axes must be known when it is read."""
ALIGNMENT = 64 << 10
"""Of tensors in the file of weights: a multiple of every common page size, so that each can be mapped by itself."""


def export_network(network: ScoringNetwork, transform: Transform, path: Path) -> None:
    """Write a network with its string lookup; float32 input `numeric`, string input `categorical`, output `score`.

    Weights of `BESIDE_FROM` bytes or more go into the file that `weights_file` names.
    """
    rows = torch.export.Dim(BATCH, min=1)
    numeric, codes = torch.zeros(2, len(transform.numeric)), torch.zeros(2, len(transform.categorical), dtype=torch.int64)
    module, inputs = _as_exportable(network, numeric, codes, transform)
    large = sum(tensor.nbytes for tensor in network.state_dict().values()) >= BESIDE_FROM
    # Folded weights are not in the file: ONNX Runtime would make them while it loads, in memory that can't be mapped.
    with _quiet(), unfolded(network) if large else contextlib.nullcontext():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            verbose=False,
            input_names=list(inputs),
            output_names=["score"],
            dynamic_shapes={name: {0: rows} for name in inputs},
            opset_version=OPSET,
        )
    assert program is not None
    if large:
        _write_weights(program.model.graph, weights_file(path))
    _finish(program.model_proto, transform, path)


def _as_exportable(
    network: ScoringNetwork, numeric: torch.Tensor, codes: torch.Tensor, transform: Transform
) -> tuple[torch.nn.Module, dict[str, torch.Tensor]]:
    if not transform.categorical:
        return NumericOnly(network), {"numeric": numeric}
    if not transform.numeric:
        return CategoricalOnly(network), {"codes": codes}
    return network, {"numeric": numeric, "codes": codes}


def _write_weights(graph: ir.Graph, path: Path) -> None:
    """Move a graph's large tensors into a file, in the graph's order, and leave their places there."""
    with path.open("wb") as file:
        for value in graph.initializers.values():
            tensor = value.const_value
            if tensor is None or tensor.nbytes < INSIDE_BELOW:
                continue
            file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
            value.const_value = ir.ExternalTensor(
                path.name,
                file.tell(),
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=value.name or "",
                base_dir=path.parent,
            )
            file.write(tensor.tobytes())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints its steps and warns of its own internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export_boosting(boosted: Boosted, path: Path) -> None:
    """Write gradient boosting as a tree ensemble behind the same inputs and output as a network."""
    transform, task, model = boosted.transform, boosted.task, boosted.model
    graph = onnx.GraphProto()
    nodes = _boosting_inputs(graph, transform)
    attributes = _tree_attributes(model)
    nodes.append(helper.make_node("TreeEnsembleRegressor", ["prelude_features"], ["raw"], domain=ML_DOMAIN, **attributes))
    nodes += _boosting_output(graph, task)
    graph.node.extend(nodes)
    shape = [BATCH, attributes["n_targets"]] if task == "multiclass" else [BATCH]
    graph.output.append(helper.make_tensor_value_info("score", TensorProto.FLOAT, shape))
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
    _finish(onnx.ModelProto(ir_version=IR_VERSION, opset_import=opsets, graph=graph), transform, path)


def _tree_attributes(model: Any) -> dict[str, Any]:
    """Return scikit-learn's trees as attributes of TreeEnsembleRegressor; tree i adds to output i modulo outputs."""
    rounds = model._predictors  # noqa: SLF001 - scikit-learn shows its trees nowhere else
    trees = [tree.nodes for trees in rounds for tree in trees]
    nodes = np.concatenate(trees)
    tree_ids = np.repeat(np.arange(len(trees)), [len(tree) for tree in trees])
    node_ids = np.concatenate([np.arange(len(tree)) for tree in trees])
    leaf = nodes["is_leaf"].astype(bool)
    outputs = len(rounds[0])
    return {
        "n_targets": outputs,
        "base_values": np.ravel(model._baseline_prediction).astype(np.float32).tolist(),  # noqa: SLF001 - likewise
        "nodes_treeids": tree_ids.tolist(),
        "nodes_nodeids": node_ids.tolist(),
        "nodes_featureids": np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64).tolist(),
        "nodes_values": np.where(leaf, 0, nodes["num_threshold"]).astype(np.float32).tolist(),
        "nodes_modes": np.where(leaf, "LEAF", "BRANCH_LEQ").tolist(),
        "nodes_truenodeids": np.where(leaf, 0, nodes["left"]).astype(np.int64).tolist(),
        "nodes_falsenodeids": np.where(leaf, 0, nodes["right"]).astype(np.int64).tolist(),
        "nodes_missing_value_tracks_true": nodes["missing_go_to_left"].astype(np.int64).tolist(),
        "target_treeids": tree_ids[leaf].tolist(),
        "target_nodeids": node_ids[leaf].tolist(),
        "target_ids": (tree_ids[leaf] % outputs).tolist(),
        "target_weights": nodes["value"][leaf].astype(np.float32).tolist(),
    }


def _boosting_inputs(graph: Any, transform: Transform) -> list[Any]:
    """Join numbers (not finite: NaN) and vocabulary indices into one float matrix."""
    nodes, parts = [], []
    if transform.numeric:
        graph.input.append(helper.make_tensor_value_info("numeric", TensorProto.FLOAT, [BATCH, len(transform.numeric)]))
        _constant(graph, "prelude_largest", np.array(np.finfo(np.float32).max, dtype=np.float32))
        _constant(graph, "prelude_nan", np.array(np.nan, dtype=np.float32))
        nodes += [
            helper.make_node("Abs", ["numeric"], ["prelude_size"]),
            helper.make_node("LessOrEqual", ["prelude_size", "prelude_largest"], ["prelude_known"]),
            helper.make_node("Where", ["prelude_known", "numeric", "prelude_nan"], ["prelude_numbers"]),
        ]
        parts.append("prelude_numbers")
    if transform.categorical:
        graph.input.append(helper.make_tensor_value_info("codes", TensorProto.INT64, [BATCH, len(transform.categorical)]))
        nodes.append(helper.make_node("Cast", ["codes"], ["prelude_ranks"], to=TensorProto.FLOAT))
        parts.append("prelude_ranks")
    return [*nodes, helper.make_node("Concat", parts, ["prelude_features"], axis=1)]


def _boosting_output(graph: Any, task: Task) -> list[Any]:
    """Turn raw outputs [B, O] into the score."""
    if task == "multiclass":
        return [helper.make_node("Softmax", ["raw"], ["score"], axis=1)]
    _constant(graph, "output_axis", np.array([1], dtype=np.int64))
    if task == "regression":
        return [helper.make_node("Squeeze", ["raw", "output_axis"], ["score"])]
    return [
        helper.make_node("Squeeze", ["raw", "output_axis"], ["logit"]),
        helper.make_node("Sigmoid", ["logit"], ["score"]),
    ]


def _constant(graph: Any, name: str, value: npt.NDArray[Any]) -> None:
    graph.initializer.append(onnx.numpy_helper.from_array(value, name))


def _finish(model: Any, transform: Transform, path: Path) -> None:
    """Put the string lookup in front, drop what depends on where and how it was exported, check and write."""
    if transform.categorical:
        _prepend_lookup(model.graph, transform)
    if ML_DOMAIN not in {entry.domain for entry in model.opset_import}:
        model.opset_import.append(helper.make_opsetid(ML_DOMAIN, ML_OPSET))
    del model.metadata_props[:]
    model.graph.name, model.graph.doc_string, model.doc_string = "model", "", ""
    del model.graph.metadata_props[:]
    for part in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))
    onnx.checker.check_model(path, full_check=True)  # by its path, since weights lie beside it


def _prepend_lookup(graph: Any, transform: Transform) -> None:
    """Replace the input `codes` by the strings `categorical`, looked up column by column; unknown is 0."""
    kept = [value for value in graph.input if value.name != "codes"]
    del graph.input[:]
    shape = [BATCH, len(transform.categorical)]
    graph.input.extend([*kept, helper.make_tensor_value_info("categorical", TensorProto.STRING, shape)])
    nodes, names = [], []
    for at, column in enumerate(transform.categorical):
        _constant(graph, f"prelude_at_{at}", np.array([at], dtype=np.int64))
        # An encoder needs a key; the null token of an empty vocabulary means unknown.
        keys = column.vocabulary or (transform.null_token,)
        values = [i + 1 for i in range(len(column.vocabulary))] or [0]
        lookup = {"keys_strings": list(keys), "values_int64s": values, "default_int64": 0}
        nodes += [
            helper.make_node("Gather", ["categorical", f"prelude_at_{at}"], [f"prelude_text_{at}"], axis=1),
            helper.make_node("LabelEncoder", [f"prelude_text_{at}"], [f"prelude_code_{at}"], domain=ML_DOMAIN, **lookup),
        ]
        names.append(f"prelude_code_{at}")
    nodes.append(helper.make_node("Concat", names, ["codes"], axis=1))
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])


def check_parity(
    what: str, expected: npt.NDArray[np.floating[Any]], exported: npt.NDArray[np.floating[Any]], *, tolerance: float
) -> float:
    """Return the greatest difference between two sets of scores.

    Raises:
        ModelRejected: it exceeds the tolerance, or a score is not a number.

    """
    difference = float(np.abs(expected.astype(np.float64) - exported.astype(np.float64)).max(initial=0.0))
    if not difference <= tolerance:
        msg = (
            f"train: {what} scores differ between the fitted model and its ONNX export by {difference:.2g}, "
            f"at most {tolerance:.2g} is allowed; nothing was published; report it with the pipeline's training.json"
        )
        raise ModelRejected(msg)
    return difference
