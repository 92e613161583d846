"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, in NumPy.

A checksum is linear over GF(2), so long data is cut into lanes that advance together, one byte at a
time, and the lanes' results are joined in pairs.

Reference:
    Castagnoli et al., Optimization of cyclic redundancy-check codes, IEEE Trans. Commun. 1993;
    RFC 3720, appendix B.4 (test vectors).
"""

from __future__ import annotations

from functools import cache

import numpy as np

POLYNOMIAL = 0x82F63B78  # reflected
ONES = np.uint32(0xFFFFFFFF)
LANES = 4096
MASK_DELTA = 0xA282EAD8


def masked_crc32c(data: bytes | np.ndarray) -> int:
    """Return the checksum as TensorFlow stores it: rotated right by 15 bits, plus a constant.

    The mask keeps a checksum of data that holds checksums meaningful.
    """
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + MASK_DELTA) & 0xFFFFFFFF


def crc32c(data: bytes | np.ndarray) -> int:
    """Return the CRC-32C of bytes, or of a uint8 array (n,)."""
    values = np.frombuffer(data, np.uint8)
    length = len(values) // LANES  # bytes per lane
    state = ONES
    if length:
        lanes = values[: length * LANES].reshape(LANES, length)
        crcs = np.zeros(LANES, np.uint32)
        crcs[0] = ONES
        state = _join(_advance(crcs, lanes.T), length)
    rest = values[length * LANES :].reshape(-1, 1)
    return int(_advance(np.array([state], np.uint32), rest)[0] ^ ONES)


def _advance(crcs: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the states (n,) after one byte of each lane per row of columns (length, n)."""
    table = _table()
    for column in columns:
        crcs = table[(crcs ^ column) & 0xFF] ^ (crcs >> np.uint32(8))
    return crcs


def _join(crcs: np.ndarray, length: int) -> np.uint32:
    """Return the state after all lanes, each of `length` bytes, one after the other."""
    shift = _zeros(length)
    while len(crcs) > 1:
        crcs = _apply(shift, crcs[::2]) ^ crcs[1::2]
        shift = _apply(shift, shift)  # twice as many zero bytes
    return crcs[0]


def _apply(operator: np.ndarray, states: np.ndarray) -> np.ndarray:
    """Apply a linear map, given by the images (32,) of the single bits, to states (n,)."""
    result = np.zeros_like(states)
    for bit, image in enumerate(operator):
        result ^= np.where(states >> np.uint32(bit) & np.uint32(1), image, np.uint32(0))
    return result


def _zeros(length: int) -> np.ndarray:
    """Return the map (32,) that `length` zero bytes are, by repeated squaring."""
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = _advance(bits, np.zeros((1, 1), np.uint8))
    result = bits  # the identity
    while length:
        if length & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        length >>= 1
    return result


@cache
def _table() -> np.ndarray:
    """Return the effect (256,) uint32 of one byte."""
    crcs = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        odd = (crcs & 1).astype(bool)
        crcs = np.where(odd, crcs >> np.uint32(1) ^ np.uint32(POLYNOMIAL), crcs >> np.uint32(1))
    return crcs
