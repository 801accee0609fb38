//! What a register is: an offset, an access, a width and named bit fields.

/// Who may do what to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read only: writes are ignored.
    Ro,
    /// Read and write.
    Rw,
    /// Write only: reads give zero.
    Wo,
}

impl Access {
    /// As the specification's tables have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ro => "RO",
            Self::Rw => "RW",
            Self::Wo => "WO",
        }
    }
}

/// The unsigned integer that a register's bits are.
pub trait Bits: Copy + Into<u64> + 'static {
    /// Width in bytes: 4 or 8.
    const BYTES: usize;
    /// Keeps the low bits of `value`.
    fn truncated(value: u64) -> Self;
}

impl Bits for u32 {
    const BYTES: usize = 4;
    #[expect(
        clippy::cast_possible_truncation,
        reason = "keeping the low bits is the point"
    )]
    fn truncated(value: u64) -> Self {
        value as u32
    }
}

impl Bits for u64 {
    const BYTES: usize = 8;
    fn truncated(value: u64) -> Self {
        value
    }
}

/// A register's typed value; `regs` declares them all.
pub trait Register: Copy {
    /// The integer behind it.
    type Bits: Bits;
    /// Byte offset in its space (BAR0, or a queue's doorbell page).
    const OFFSET: u32;
    /// Who may do what to it.
    const ACCESS: Access;
    /// Upper-case name, as in the specification.
    const NAME: &'static str;
    /// The value with these bits.
    fn from_bits(bits: Self::Bits) -> Self;
    /// The bits of this value.
    fn bits(self) -> Self::Bits;
}

/// One named bit field of a register row.
#[derive(Clone, Copy, Debug)]
pub struct FieldRow {
    /// Lower-case name.
    pub name: &'static str,
    /// Highest bit.
    pub high: u8,
    /// Lowest bit.
    pub low: u8,
    /// What it means.
    pub doc: &'static str,
}

/// One register as data.
#[derive(Clone, Copy, Debug)]
pub struct RegisterRow {
    /// Upper-case name.
    pub name: &'static str,
    /// Byte offset in its space.
    pub offset: u32,
    /// Width in bytes: 4 or 8.
    pub bytes: usize,
    /// Who may do what to it.
    pub access: Access,
    /// Value after a device reset; zero where `varies`.
    pub reset: u64,
    /// The value after a reset is the device's own, or is kept: the specification says which.
    pub varies: bool,
    /// Bit fields, lowest first.
    pub fields: &'static [FieldRow],
    /// What it is.
    pub doc: &'static str,
}

/// One field of a structure in memory, as data.
#[derive(Clone, Copy, Debug)]
pub struct MemberRow {
    /// Lower-case name.
    pub name: &'static str,
    /// Byte offset in the structure.
    pub offset: usize,
    /// Rust spelling of the type: `u8` to `u64`, or `[u8; 16]`.
    pub ty: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// One structure in memory, as data.
#[derive(Clone, Copy, Debug)]
pub struct StructRow {
    /// CamelCase name.
    pub name: &'static str,
    /// Size in bytes.
    pub bytes: usize,
    /// Members in order; there is no padding.
    pub members: &'static [MemberRow],
    /// What it is.
    pub doc: &'static str,
}

/// One named number, as data.
#[derive(Clone, Copy, Debug)]
pub struct ConstantRow {
    /// UPPER_CASE name.
    pub name: &'static str,
    /// Its value; worst-case times are in microseconds.
    pub value: u64,
    /// Rust spelling of its type.
    pub ty: &'static str,
    /// What it means.
    pub doc: &'static str,
}

/// One value of an enumeration, as data.
#[derive(Clone, Copy, Debug)]
pub struct CodeRow {
    /// UPPER_CASE name.
    pub name: &'static str,
    /// The number on the wire; it never changes.
    pub value: u32,
    /// Not built yet: devices of version 1.0 refuse it, its number is kept.
    pub reserved: bool,
    /// What it means.
    pub doc: &'static str,
}

/// One enumeration, as data.
#[derive(Clone, Copy, Debug)]
pub struct EnumRow {
    /// CamelCase name.
    pub name: &'static str,
    /// Its values.
    pub codes: &'static [CodeRow],
    /// What it is.
    pub doc: &'static str,
}
