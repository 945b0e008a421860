"""The numbers that fix a BERT's shape, and the shape of every tensor that follows from them."""

from __future__ import annotations

from dataclasses import dataclass

HEADS = ("sequence", "token", "question")


@dataclass(frozen=True)
class BertConfig:
    """One BERT with its head. Sizes are counts, `eps` is LayerNorm's, dropouts are probabilities."""

    head: str  # one of HEADS
    labels: tuple[str, ...]  # in the order of the logits; ("start", "end") for `question`
    layers: int
    heads: int
    hidden: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    eps: float = 1e-12
    activation: str = "gelu"
    hidden_dropout: float = 0.1
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.1

    def encoder_shapes(self, layer: int) -> dict[str, tuple[int, ...]]:
        """Name -> shape of one encoder layer's parameters, in the order data flows."""
        h, m = self.hidden, self.intermediate
        prefix = f"bert.encoder.layer.{layer}."
        shapes: dict[str, tuple[int, ...]] = {}
        for name, rows, columns in (
            ("attention.self.query", h, h),
            ("attention.self.key", h, h),
            ("attention.self.value", h, h),
            ("attention.output.dense", h, h),
            ("intermediate.dense", m, h),
            ("output.dense", h, m),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            shapes[f"{prefix}{name}.bias"] = (rows,)
            if name in ("attention.output.dense", "output.dense"):
                norm = name.replace("dense", "LayerNorm")
                shapes[f"{prefix}{norm}.weight"] = (h,)
                shapes[f"{prefix}{norm}.bias"] = (h,)
        return shapes

    def embedding_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the three tables and their LayerNorm."""
        h = self.hidden
        return {
            "bert.embeddings.word_embeddings.weight": (self.vocabulary, h),
            "bert.embeddings.position_embeddings.weight": (self.positions, h),
            "bert.embeddings.token_type_embeddings.weight": (self.token_types, h),
            "bert.embeddings.LayerNorm.weight": (h,),
            "bert.embeddings.LayerNorm.bias": (h,),
        }

    def head_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the pooler (sequence classification only) and the output layer."""
        h, n = self.hidden, len(self.labels)
        if self.head == "question":
            return {"qa_outputs.weight": (2, h), "qa_outputs.bias": (2,)}
        classifier = {"classifier.weight": (n, h), "classifier.bias": (n,)}
        if self.head == "token":
            return classifier
        pooler = {"bert.pooler.dense.weight": (h, h), "bert.pooler.dense.bias": (h,)}
        return pooler | classifier

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of every parameter, named as transformers names them."""
        shapes = self.embedding_shapes()
        for layer in range(self.layers):
            shapes |= self.encoder_shapes(layer)
        return shapes | self.head_shapes()
