"""A serialised tf.train.Example or SequenceExample as arrays and lists of bytes, without TensorFlow."""

from __future__ import annotations

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from actdistill_ros.data.episode import DataError

Value = np.ndarray | list[bytes]
"""(N,) float32, (N,) int64, or N byte strings."""

_PACKAGE = "actdistill.example"


def parse(payload: bytes) -> dict[str, Value]:
    """Every feature by its key, flat; a feature list of a SequenceExample comes as its steps' values end to end.

    Raises DataError if the payload is no such message.
    """
    message = _MESSAGE()
    try:
        message.ParseFromString(payload)
    except DecodeError as error:
        raise DataError(f"a record of {len(payload)} bytes is no tf.train.Example ({error}).") from error
    found = {key: _value(feature) for key, feature in message.context.feature.items()}
    for key, steps in message.feature_lists.feature_list.items():
        found[key] = _joined([_value(feature) for feature in steps.feature])
    return found


def _value(feature) -> Value:
    kind = feature.WhichOneof("kind")
    if kind == "bytes_list":
        return list(feature.bytes_list.value)
    if kind == "float_list":
        return np.array(feature.float_list.value, dtype=np.float32)
    if kind == "int64_list":
        return np.array(feature.int64_list.value, dtype=np.int64)
    return np.empty(0, dtype=np.float32)


def _joined(values: list[Value]) -> Value:
    if any(isinstance(value, list) for value in values):
        return [each for value in values for each in value]
    return np.concatenate(values) if values else np.empty(0, dtype=np.float32)


def _schema() -> descriptor_pb2.FileDescriptorProto:
    """The messages of tensorflow/core/example/{feature,example}.proto by their field numbers.

    An Example is read as a SequenceExample: both have Features in field 1, only the latter has feature lists, in
    field 2.
    """
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"{_PACKAGE}.proto", package=_PACKAGE, syntax="proto3")
    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=field.LABEL_REPEATED)
    feature = file.message_type.add(name="Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("BytesList", "FloatList", "Int64List"), 1):
        key = {"BytesList": "bytes_list", "FloatList": "float_list", "Int64List": "int64_list"}[name]
        _message(feature, key, number, name).oneof_index = 0
    _message(file.message_type.add(name="FeatureList"), "feature", 1, "Feature", repeated=True)
    _map(file, "Features", "feature", "Feature")
    _map(file, "FeatureLists", "feature_list", "FeatureList")
    sequence = file.message_type.add(name="SequenceExample")
    _message(sequence, "context", 1, "Features")
    _message(sequence, "feature_lists", 2, "FeatureLists")
    return file


def _message(owner, name: str, number: int, kind: str, repeated: bool = False):
    field = descriptor_pb2.FieldDescriptorProto
    label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    return owner.field.add(
        name=name, number=number, type=field.TYPE_MESSAGE, type_name=f".{_PACKAGE}.{kind}", label=label
    )


def _map(file, owner: str, name: str, kind: str) -> None:
    """`map<string, kind> name = 1`, which on the wire is a repeated entry of key and value."""
    field = descriptor_pb2.FieldDescriptorProto
    message = file.message_type.add(name=owner)
    entry = message.nested_type.add(name=f"{name.title().replace('_', '')}Entry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    _message(entry, "value", 2, kind)
    _message(message, name, 1, f"{owner}.{entry.name}", repeated=True)


def _message_class() -> type:
    pool = descriptor_pool.DescriptorPool()
    pool.Add(_schema())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.SequenceExample"))


_MESSAGE = _message_class()
