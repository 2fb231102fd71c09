"""What is read of a graph without opening it, against the library that writes graphs."""

import json

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facesieve.weights.graphs import metadata_of

WORDS = st.dictionaries(st.text(max_size=8), st.text(max_size=300) | st.integers() | st.none(), max_size=5)


def model(**entries):
    graph = onnx.helper.make_graph([], "graph", [], [], doc_string="x" * 200)
    made = onnx.helper.make_model(graph, producer_name="test", ir_version=8)
    for key, value in entries.items():
        made.metadata_props.add(key=key, value=value)
    return made.SerializeToString()


@given(WORDS)
def test_our_metadata_are_found_among_others(about):
    assert metadata_of(model(other="{}", facesieve=json.dumps(about), another="x" * 1000)) == about


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_empty(data):
    assert isinstance(metadata_of(data), dict)


@pytest.mark.parametrize("entries", [{}, {"other": "{}"}, {"facesieve": "no JSON"}, {"facesieve": "[1]"}])
def test_a_graph_without_them_has_none(entries):
    assert metadata_of(model(**entries)) == {}
