//! The macros that turn one datasheet row into a type, a table row and a header line.
//!
//! They declare and nothing else: no macro here hides an access or a `return`.

/// Registers: `Name "NAME" @ offset access bits = reset { [high:low] field with_field, ... }`;
/// `= 0 varies` where a reset leaves the device's own or the former value.
macro_rules! registers {
    ($(#[doc = $tdoc:literal])* table $table:ident;
     $($(#[doc = $doc:literal])+ $reg:ident $name:literal @ $offset:literal $access:ident $bits:ident = $reset:literal $($varies:ident)? {
        $($(#[doc = $fdoc:literal])+ [$high:literal : $low:literal] $field:ident $with:ident,)*
    })+) => {
        $(
            $(#[doc = $doc])+
            #[derive(Clone, Copy, Debug, PartialEq, Eq)]
            pub struct $reg(pub $bits);

            impl Default for $reg {
                fn default() -> Self { Self(0) }
            }

            impl crate::reg::Register for $reg {
                type Bits = $bits;
                const OFFSET: u32 = $offset;
                const ACCESS: crate::reg::Access = crate::reg::Access::$access;
                const NAME: &'static str = $name;
                fn from_bits(bits: $bits) -> Self { Self(bits) }
                fn bits(self) -> $bits { self.0 }
            }

            impl $reg {
                /// Value after reset (zero where the specification says it varies).
                pub const RESET: $bits = $reset;
                $(
                    $(#[doc = $fdoc])+
                    #[must_use]
                    pub const fn $field(self) -> $bits {
                        (self.0 >> $low) & Self::mask($high - $low + 1)
                    }
                    /// The same value with this field set (bits beyond the field are dropped).
                    #[must_use]
                    pub const fn $with(self, value: $bits) -> Self {
                        let mask = Self::mask($high - $low + 1);
                        Self((self.0 & !(mask << $low)) | ((value & mask) << $low))
                    }
                )*
                #[allow(dead_code, reason = "registers without fields have no use for it")]
                const fn mask(bits: u32) -> $bits { <$bits>::MAX >> (<$bits>::BITS - bits) }
            }
        )+

        $(#[doc = $tdoc])*
        pub const $table: &[crate::reg::RegisterRow] = &[$(
            crate::reg::RegisterRow {
                name: $name,
                offset: $offset,
                bytes: size_of::<$bits>(),
                access: crate::reg::Access::$access,
                reset: $reset as u64,
                varies: registers!(@varies $($varies)?),
                fields: &[$(crate::reg::FieldRow {
                    name: stringify!($field), high: $high, low: $low, doc: concat!($($fdoc),+),
                },)*],
                doc: concat!($($doc),+),
            },
        )+];
    };
    (@varies) => { false };
    (@varies varies) => { true };
}

/// A structure in memory: every member with its offset; no padding; size checked.
macro_rules! layout {
    ($(#[doc = $doc:literal])+ $name:ident, $bytes:literal, row $row:ident {
        $($(#[doc = $mdoc:literal])+ $offset:literal $member:ident: $ty:ty,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq,
            zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable, zerocopy::KnownLayout)]
        #[repr(C)]
        pub struct $name {
            $($(#[doc = $mdoc])+ pub $member: $ty,)+
        }

        impl $name {
            /// All bytes zero.
            pub const ZERO: Self = zerocopy::transmute!([0u8; $bytes]);
        }

        const _: () = {
            assert!(size_of::<$name>() == $bytes, "size");
            $(assert!(core::mem::offset_of!($name, $member) == $offset, stringify!($member));)+
        };

        #[doc = concat!("`", stringify!($name), "` as data.")]
        pub const $row: crate::reg::StructRow = crate::reg::StructRow {
            name: stringify!($name),
            bytes: $bytes,
            members: &[$(crate::reg::MemberRow {
                name: stringify!($member), offset: $offset, ty: stringify!($ty), doc: concat!($($mdoc),+),
            },)+],
            doc: concat!($($doc),+),
        };
    };
}

/// Named numbers: `NAME: type = value;`, each a constant and a row of the table.
macro_rules! constants {
    ($(#[doc = $tdoc:literal])+ table $table:ident;
     $($(#[doc = $doc:literal])+ $name:ident: $ty:ty = $value:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: $ty = $value;)+

        $(#[doc = $tdoc])+
        pub const $table: &[crate::reg::ConstantRow] = &[$(
            crate::reg::ConstantRow {
                name: stringify!($name),
                value: $name as u64,
                ty: stringify!($ty),
                doc: concat!($($doc),+),
            },
        )+];
    };
}

/// Worst-case times: `NAME = microseconds;`, each a `Duration` and a row of the table.
macro_rules! times {
    ($(#[doc = $tdoc:literal])+ table $table:ident;
     $($(#[doc = $doc:literal])+ $name:ident $row:literal = $us:literal;)+) => {
        $($(#[doc = $doc])+ pub const $name: core::time::Duration = core::time::Duration::from_micros($us);)+

        $(#[doc = $tdoc])+
        pub const $table: &[crate::reg::ConstantRow] = &[$(
            crate::reg::ConstantRow { name: $row, value: $us, ty: "u32", doc: concat!($($doc),+) },
        )+];
    };
}

/// An enumeration on the wire: `Name = value "NAME"`; `reserved` ones are kept numbers.
macro_rules! codes {
    ($(#[doc = $doc:literal])+ $name:ident, row $row:ident {
        $($(#[doc = $vdoc:literal])+ $variant:ident $text:literal = $value:literal $($reserved:ident)?,)+
    }) => {
        $(#[doc = $doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u32)]
        pub enum $name {
            $($(#[doc = $vdoc])+ $variant = $value,)+
        }

        impl $name {
            /// Every value, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The number on the wire.
            #[must_use]
            pub const fn code(self) -> u32 { self as u32 }

            /// The value with this number, if there is one.
            #[must_use]
            pub const fn from_code(code: u32) -> Option<Self> {
                match code {
                    $($value => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The name, as in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }

            /// Whether the number is only kept: devices of version 1.0 refuse it.
            #[must_use]
            pub const fn is_reserved(self) -> bool {
                match self { $(Self::$variant => codes!(@reserved $($reserved)?),)+ }
            }
        }

        #[doc = concat!("`", stringify!($name), "` as data.")]
        pub const $row: crate::reg::EnumRow = crate::reg::EnumRow {
            name: stringify!($name),
            codes: &[$(crate::reg::CodeRow {
                name: $text, value: $value, reserved: codes!(@reserved $($reserved)?), doc: concat!($($vdoc),+),
            },)+],
            doc: concat!($($doc),+),
        };
    };
    (@reserved) => { false };
    (@reserved reserved) => { true };
}

pub(crate) use {codes, constants, layout, registers, times};
