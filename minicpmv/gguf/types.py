"""Types of tensors in a GGUF file, and types of whole files (mixtures), as ggml numbers them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GGMLType:
    """How a row of numbers is stored: blocks of `block` values in `block_bytes` bytes each."""

    id: int
    name: str
    block: int
    block_bytes: int

    def row_bytes(self, width: int) -> int:
        """Bytes of a row of `width` values.

        Raises:
            ValueError: the row is no whole number of blocks.
        """
        if width % self.block:
            raise ValueError(
                f"A row of {width} values cannot be {self.name}: its blocks have {self.block}."
            )
        return width // self.block * self.block_bytes

    @property
    def bits(self) -> float:
        """Bits per value."""
        return 8 * self.block_bytes / self.block


F32 = GGMLType(0, "F32", 1, 4)
F16 = GGMLType(1, "F16", 1, 2)
Q4_0 = GGMLType(2, "Q4_0", 32, 18)
Q4_1 = GGMLType(3, "Q4_1", 32, 20)
Q5_0 = GGMLType(6, "Q5_0", 32, 22)
Q5_1 = GGMLType(7, "Q5_1", 32, 24)
Q8_0 = GGMLType(8, "Q8_0", 32, 34)
Q2_K = GGMLType(10, "Q2_K", 256, 84)
Q3_K = GGMLType(11, "Q3_K", 256, 110)
Q4_K = GGMLType(12, "Q4_K", 256, 144)
Q5_K = GGMLType(13, "Q5_K", 256, 176)
Q6_K = GGMLType(14, "Q6_K", 256, 210)
IQ4_NL = GGMLType(20, "IQ4_NL", 32, 18)
IQ4_XS = GGMLType(23, "IQ4_XS", 256, 136)
BF16 = GGMLType(30, "BF16", 1, 2)

_ALL = (F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K, Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS, BF16)
TYPES: dict[str, GGMLType] = {each.name: each for each in _ALL}
BY_ID: dict[int, GGMLType] = {each.id: each for each in _ALL}
UNQUANTISED = frozenset({F32, F16, BF16})
# Where a block has its float16 numbers: scales, and offsets after them; in bytes.
SCALES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("Q4_0", "Q5_0", "Q8_0", "IQ4_NL", "IQ4_XS"), (0,)),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2)),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}


@dataclass(frozen=True)
class FileType:
    """What `general.file_type` says: the mixture, and the type that most of its tensors have."""

    name: str
    id: int
    base: GGMLType


_FILE_TYPES = (
    FileType("F32", 0, F32),
    FileType("F16", 1, F16),
    FileType("BF16", 32, BF16),
    FileType("Q8_0", 7, Q8_0),
    FileType("Q6_K", 18, Q6_K),
    FileType("Q5_K_M", 17, Q5_K),
    FileType("Q5_K_S", 16, Q5_K),
    FileType("Q5_1", 9, Q5_1),
    FileType("Q5_0", 8, Q5_0),
    FileType("Q4_K_M", 15, Q4_K),
    FileType("Q4_K_S", 14, Q4_K),
    FileType("Q4_1", 3, Q4_1),
    FileType("Q4_0", 2, Q4_0),
    FileType("Q3_K_L", 13, Q3_K),
    FileType("Q3_K_M", 12, Q3_K),
    FileType("Q3_K_S", 11, Q3_K),
    FileType("Q2_K", 10, Q2_K),
    FileType("IQ4_NL", 25, IQ4_NL),
    FileType("IQ4_XS", 30, IQ4_XS),
)
# From the most exact to the smallest, the two with a table of values last.
FILE_TYPES: dict[str, FileType] = {each.name: each for each in _FILE_TYPES}
