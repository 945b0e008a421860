"""Whole numbers of 1..8 bits in 32-bit words, as compressed-tensors packs them.

A row of n codes of b bits is one stream of n b bits, lowest bit first, cut into ceil(n b / 32)
little-endian words; codes cross the words' borders, and only the last word has unused bits, zero.
compressed-tensors calls the stored number signed (q - 2^(b-1)) and adds 2^(b-1) before it packs, so the
bits in the file are those of q in 0..2^b - 1 itself.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

WORD = 32
CHUNK = 1 << 22  # codes at a time: bits are spread to a byte each on the way


def words(count: int, bits: int) -> int:
    """How many 32-bit words so many codes take."""
    return -(-count * bits // WORD)


def pack(codes: Tensor, bits: int) -> Tensor:
    """(rows, n) uint8 codes in 0..2^bits - 1 -> (rows, words(n, bits)) int32."""
    rows, count = codes.shape
    width = words(count, bits)
    packed = np.zeros((rows, 4 * width), np.uint8)
    for start in range(0, rows, step := max(1, CHUNK // count)):
        part = codes[start : start + step].numpy()
        stream = np.unpackbits(part[..., None], axis=-1, count=bits, bitorder="little")
        filled = np.packbits(stream.reshape(len(part), count * bits), axis=-1, bitorder="little")
        packed[start : start + step, : filled.shape[1]] = filled
    return torch.from_numpy(packed.view("<i4").astype(np.int32, copy=False))


def unpack(packed: Tensor, bits: int, count: int) -> Tensor:
    """(rows, words(count, bits)) int32 -> (rows, count) uint8 codes in 0..2^bits - 1."""
    rows = len(packed)
    codes = np.empty((rows, count), np.uint8)
    stored = np.ascontiguousarray(packed.numpy()).astype("<i4", copy=False).view(np.uint8)
    for start in range(0, rows, step := max(1, CHUNK // count)):
        stream = np.unpackbits(stored[start : start + step], axis=-1, count=count * bits, bitorder="little")
        spread = stream.reshape(len(stream), count, bits)
        codes[start : start + step] = np.packbits(spread, axis=-1, bitorder="little")[..., 0]
    return torch.from_numpy(codes)
