//! The firmware's kernel library: ids and element types. `docs/kernels.md` defines each one.

use crate::row::codes;

codes! {
    /// Kernels that LAUNCH names. Operand 0 is the destination.
    KernelId, row KERNEL_ID {
        /// Rows of a table by index.
        GetRows "GET_ROWS" = 1,
        /// Stores rows at indices.
        SetRows "SET_ROWS" = 2,
        /// Matrix product, weights by activations, broadcast over grouped heads.
        MulMat "MUL_MAT" = 3,
        /// Root mean square normalisation of rows.
        RmsNorm "RMS_NORM" = 4,
        /// Rotary position embedding.
        Rope "ROPE" = 5,
        /// Soft-max of rows, with scale and mask.
        SoftMax "SOFT_MAX" = 6,
        /// Sum, broadcast.
        Add "ADD" = 7,
        /// Product, broadcast.
        Mul "MUL" = 8,
        /// Scale and bias.
        Scale "SCALE" = 9,
        /// x times its sigmoid.
        Silu "SILU" = 10,
        /// SILU of one half (or operand) times the other.
        Swiglu "SWIGLU" = 11,
        /// Copy with conversion between types, shapes and strides.
        Copy "COPY" = 12,
        /// Index of each row's largest element.
        Argmax "ARGMAX" = 13,
        /// GELU-gated linear unit.
        Geglu "GEGLU" = 14,
        /// Matrix product with experts chosen by index.
        MulMatId "MUL_MAT_ID" = 15,
        /// Indices that sort each row.
        Argsort "ARGSORT" = 16,
        /// Indices of each row's k largest.
        TopK "TOP_K" = 17,
        /// Sum of each row.
        SumRows "SUM_ROWS" = 18,
        /// Quotient, broadcast.
        Div "DIV" = 19,
        /// Attention as one kernel.
        Attention "ATTENTION" = 20,
        /// Difference, broadcast.
        Sub "SUB" = 21,
        /// Sum over cards.
        AllReduce "ALL_REDUCE" = 22 reserved,
        /// Draws a token from logits.
        Sample "SAMPLE" = 23,
        /// Held between two bounds.
        Clamp "CLAMP" = 24,
    }
}

codes! {
    /// Element types; the numbers are those of GGUF files.
    DType, row DTYPE {
        /// IEEE 754 binary32.
        F32 "F32" = 0,
        /// IEEE 754 binary16.
        F16 "F16" = 1,
        /// Blocks of 32 in 4 bits.
        Q4_0 "Q4_0" = 2,
        /// Blocks of 32 in 8 bits.
        Q8_0 "Q8_0" = 8,
        /// Super-blocks of 256 in 4 bits.
        Q4K "Q4_K" = 12,
        /// Super-blocks of 256 in 6 bits.
        Q6K "Q6_K" = 14,
        /// 32-bit signed integers.
        I32 "I32" = 26,
        /// 64-bit signed integers.
        I64 "I64" = 27,
        /// bfloat16.
        Bf16 "BF16" = 30,
    }
}

impl DType {
    /// Elements in a block; 1 where elements stand alone.
    #[must_use]
    pub const fn block_elements(self) -> u32 {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 | Self::I32 | Self::I64 => 1,
            Self::Q4_0 | Self::Q8_0 => 32,
            Self::Q4K | Self::Q6K => 256,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub const fn block_bytes(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
            Self::Q4_0 => 18,
            Self::Q8_0 => 34,
            Self::Q4K => 144,
            Self::Q6K => 210,
        }
    }

    /// What addresses and strides are multiples of: an element's size, and 2 for blocks.
    #[must_use]
    pub const fn alignment(self) -> u32 {
        match self {
            Self::F16 | Self::Bf16 | Self::Q4_0 | Self::Q8_0 | Self::Q4K | Self::Q6K => 2,
            Self::F32 | Self::I32 => 4,
            Self::I64 => 8,
        }
    }
}
