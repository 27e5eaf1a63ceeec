"""Models that read a sequence and say, at each position, what comes next."""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any, Final

from edge_runtime.protocol.bundle import DefaultPlan
from model_export.spec import ExportSpec
from model_export.zoo.reference import Reference, tokens

if TYPE_CHECKING:
    import keras

CHARACTERS: Final = "\n !\"&'(),-.0123456789:;>?" + string.ascii_uppercase + "[]" + string.ascii_lowercase + "}"
"""The 80 characters of LEAF's Shakespeare, in the order of their codes: index 0 is the line break."""

_HEADS: Final = 4
_WIDTH: Final = 64
_DROPOUT: Final = 0.1
_RANK: Final = 4


def gru_next_word(vocabulary: int, length: int) -> keras.Model:
    """One GRU of 128 over words.

    Source: https://arxiv.org/abs/1811.03604 (a smaller vocabulary, and a GRU in place of its coupled LSTM).
    """
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((length,), dtype="int32", name="words"),
            layers.Embedding(vocabulary, 64, name="embedding"),
            layers.GRU(128, return_sequences=True, name="gru"),
            layers.Dense(vocabulary, name="logits"),
        ],
        name="gru_next_word",
    )


def char_lstm(vocabulary: int, length: int) -> keras.Model:
    """Two LSTMs of 128 over characters.

    LEAF's model for Shakespeare reads 80 characters with 256 units and predicts the one after them. Exported, a
    recurrent layer is written out position by position, so the reference reads 32, and predicts after each.
    Source: https://arxiv.org/abs/1812.01097.
    """
    from keras import Sequential, layers

    return Sequential(
        [
            layers.Input((length,), dtype="int32", name="characters"),
            layers.Embedding(vocabulary, 8, name="embedding"),
            layers.LSTM(128, return_sequences=True, name="lstm_1"),
            layers.LSTM(128, return_sequences=True, name="lstm_2"),
            layers.Dense(vocabulary, name="logits"),
        ],
        name="char_lstm",
    )


def transformer(vocabulary: int, length: int) -> keras.Model:
    """One causal Transformer block of width 64, normalized first.

    Sources: https://arxiv.org/abs/1706.03762, https://arxiv.org/abs/2002.04745 (normalization first).
    """
    return _transformer(vocabulary, length, blocks=1, dropout=0.0, name="transformer")


def transformer_lora(vocabulary: int, length: int) -> keras.Model:
    """Two blocks with dropout, and adapters of rank 4 on every dense layer, attention's included.

    The base stands in for one that was trained elsewhere: put its weights in before exporting. The adapters begin as a
    change of zero. Source: https://arxiv.org/abs/2106.09685.
    """
    from keras import layers

    model = _transformer(vocabulary, length, blocks=2, dropout=_DROPOUT, name="transformer_lora")
    for layer in model._flatten_layers():
        if isinstance(layer, layers.Dense | layers.EinsumDense):
            layer.enable_lora(_RANK)
    return model


def _transformer(vocabulary: int, length: int, *, blocks: int, dropout: float, name: str) -> keras.Model:
    import keras
    from keras import layers

    from model_export.zoo.positions import LearnedPositions

    words = layers.Input((length,), dtype="int32", name="words")
    x = LearnedPositions(name="positions")(layers.Embedding(vocabulary, _WIDTH, name="embedding")(words))
    for number in range(1, blocks + 1):
        x = _block(x, dropout, f"block_{number}")
    x = layers.LayerNormalization(epsilon=1e-5, name="norm")(x)
    return keras.Model(words, layers.Dense(vocabulary, name="logits")(x), name=name)


def _block(x: Any, dropout: float, name: str) -> Any:
    """Attention to what came before, then two dense layers with GELU (its tanh form); each adds to its input."""
    from keras import activations, layers

    seen = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_attention_norm")(x)
    attention = layers.MultiHeadAttention(_HEADS, _WIDTH // _HEADS, name=f"{name}_attention")
    found = _dropped(attention(seen, seen, use_causal_mask=True), dropout, f"{name}_attention_dropout")
    x = layers.Add(name=f"{name}_attention_add")([x, found])
    wide = layers.LayerNormalization(epsilon=1e-5, name=f"{name}_dense_norm")(x)
    wide = layers.Dense(4 * _WIDTH, name=f"{name}_wide")(wide)
    wide = activations.gelu(wide, approximate=True)
    narrow = layers.Dense(_WIDTH, name=f"{name}_narrow")(wide)
    return layers.Add(name=f"{name}_dense_add")([x, _dropped(narrow, dropout, f"{name}_dense_dropout")])


def _dropped(x: Any, dropout: float, name: str) -> Any:
    from keras import layers

    return layers.Dropout(dropout, name=name)(x) if dropout else x


GRU_NEXT_WORD: Final = Reference(
    summary="next word on a keyboard",
    spec=ExportSpec(
        name="gru_next_word",
        features=tokens(2000, 20),
        labels=tokens(2000, 20),
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.5),
    ),
    builder=lambda spec: gru_next_word(*_text_sizes(spec)),
)

CHAR_LSTM: Final = Reference(
    summary="next character, in the manner of LEAF's Shakespeare",
    spec=ExportSpec(
        name="char_lstm",
        features=tokens(len(CHARACTERS), 32),
        labels=tokens(len(CHARACTERS), 32),
        class_names=tuple(CHARACTERS),
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.8),
    ),
    builder=lambda spec: char_lstm(*_text_sizes(spec)),
)

TRANSFORMER: Final = Reference(
    summary="next word, by attention",
    spec=ExportSpec(
        name="transformer",
        features=tokens(1000, 20),
        labels=tokens(1000, 20),
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.1),
    ),
    builder=lambda spec: transformer(*_text_sizes(spec)),
)

TRANSFORMER_LORA: Final = Reference(
    summary="next word, adapting a frozen base",
    spec=ExportSpec(
        name="transformer_lora",
        features=tokens(1000, 20),
        labels=tokens(1000, 20),
        adapters_only=True,
        default_plan=DefaultPlan(epochs=1, batch_size=20, learning_rate=0.03),
    ),
    builder=lambda spec: transformer_lora(*_text_sizes(spec)),
)


def _text_sizes(spec: ExportSpec) -> tuple[int, int]:
    """Vocabulary and length."""
    return int(spec.features.high) + 1, spec.features.size
