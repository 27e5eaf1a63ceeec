"""A recommender whose user embedding stays on the phone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from edge_runtime.protocol.bundle import DefaultPlan, Schema
from model_export.spec import ExportSpec, Loss, Metric
from model_export.zoo.reference import Reference

if TYPE_CHECKING:
    import keras

USERS: Final = 1000
ITEMS: Final = 5000


def two_tower(users: int, items: int) -> keras.Model:
    """A tower for the user and one for the item; the product of what they say is the logit of a click.

    Two inputs of shape (1,), `user` and `item`, each an index.
    Source: https://doi.org/10.1145/2959100.2959190 (candidates by a product of two embeddings).
    """
    import keras
    from keras import layers

    user = layers.Input((1,), dtype="int32", name="user")
    item = layers.Input((1,), dtype="int32", name="item")
    towers = [_tower(user, users, "user"), _tower(item, items, "item")]
    return keras.Model([user, item], layers.Dot(axes=1, name="logit")(towers), name="two_tower")


def _tower(index: Any, count: int, name: str) -> Any:
    from keras import initializers, layers

    # Keras's own ±0.05 through two layers and a product would leave plain SGD next to nothing to start from.
    wide = initializers.RandomUniform(-1.0, 1.0)
    x = layers.Embedding(count, 32, embeddings_initializer=wide, name=f"{name}_embedding")(index)
    x = layers.Flatten(name=f"{name}_flatten")(x)
    x = layers.Dense(32, activation="relu", name=f"{name}_hidden")(x)
    return layers.Dense(16, name=f"{name}_tower")(x)


TWO_TOWER: Final = Reference(
    summary="recommender of clicks, whose user embedding never leaves the device",
    spec=ExportSpec(
        name="two_tower",
        features=Schema(shape=(2,), dtype="int32", low=0, high=ITEMS - 1),
        labels=Schema(shape=(1,), dtype="float32", low=0.0, high=1.0),
        loss=Loss.BINARY_CROSS_ENTROPY,
        metrics=(Metric.BINARY_CORRECT,),
        personal=("user_embedding",),
        default_plan=DefaultPlan(epochs=3, batch_size=20, learning_rate=0.5),
    ),
    builder=lambda _spec: two_tower(USERS, ITEMS),
)
"""An example is a user and an item, under one range: a user of `USERS` or more is for the app to keep out."""
