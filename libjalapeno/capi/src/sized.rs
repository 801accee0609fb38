//! Structures that begin with their size, so that header and library may differ in age.

use std::ptr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::status::Failure;

/// The longest tail that is looked at; no structure will ever be this long.
const TAIL_MAX: usize = 4096;

/// The size that a caller says its structure has, checked: at least `least`, its tail zero.
///
/// # Safety
/// `at` is null, or points to at least as many readable bytes as its first word says.
unsafe fn checked(at: *const u8, name: &str, least: usize, known: usize) -> Result<usize, Failure> {
    if at.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: the caller's structure is at least its size field long.
    let size = unsafe { at.cast::<u32>().read_unaligned() } as usize;
    if size < least || size > TAIL_MAX {
        return Err(Failure::invalid(format!(
            "{name}->struct_size is {size}: set it to sizeof(*{name}), which is {known} here"
        )));
    }
    for offset in known..size {
        // SAFETY: offset < size, which the caller vouches for.
        if unsafe { at.add(offset).read() } != 0 {
            return Err(Failure::invalid(format!(
                "{name} has a non-zero byte at offset {offset}, which this library does not know"
            )));
        }
    }
    Ok(size)
}

/// Reads a structure whose first field is its size; `least` is the size of its first version.
///
/// # Safety
/// `at` is null, or points to at least as many readable bytes as its first word says.
pub(crate) unsafe fn read<T: FromBytes + IntoBytes + Immutable>(
    at: *const T,
    name: &str,
    least: usize,
) -> Result<T, Failure> {
    // SAFETY: promised by the caller.
    let size = unsafe { checked(at.cast(), name, least, size_of::<T>()) }?;
    let mut value = T::new_zeroed();
    let bytes = size.min(size_of::<T>());
    // SAFETY: `bytes` are readable there and fit into the value, which is ours.
    unsafe { ptr::copy_nonoverlapping(at.cast(), value.as_mut_bytes().as_mut_ptr(), bytes) };
    Ok(value)
}

/// Checks an output structure before the work is done, so that a bad one costs nothing.
///
/// # Safety
/// As `read`.
pub(crate) unsafe fn check_out<T>(at: *mut T, name: &str, least: usize) -> Result<usize, Failure> {
    // SAFETY: promised by the caller.
    unsafe { checked(at.cast_const().cast(), name, least, size_of::<T>()) }
}

/// Fills an output structure that `check_out` passed, keeping the caller's size field.
///
/// # Safety
/// `at` points to `size` writable bytes, the size that `check_out` gave.
pub(crate) unsafe fn fill<T: IntoBytes + Immutable>(at: *mut T, size: usize, value: &T) {
    let bytes = size.min(size_of::<T>());
    let from = &value.as_bytes()[4..bytes];
    // SAFETY: bytes 4.. of the first `bytes` are writable there.
    unsafe { ptr::copy_nonoverlapping(from.as_ptr(), at.cast::<u8>().add(4), from.len()) };
}

/// Copies a text into a fixed array, zero-padded and always terminated.
pub(crate) fn text<const N: usize>(from: &str) -> [u8; N] {
    let mut to = [0; N];
    let mut end = from.len().min(N - 1);
    while !from.is_char_boundary(end) {
        end -= 1;
    }
    to[..end].copy_from_slice(&from.as_bytes()[..end]);
    to
}

/// Writes `values` into an array of the caller's with its own element size and gives the count
/// there are.
///
/// # Safety
/// `out` is null (with capacity 0) or points to `capacity` x `element` writable bytes; `count` is
/// null or writable.
pub(crate) unsafe fn list<T: IntoBytes + Immutable>(
    values: &[T],
    out: *mut T,
    capacity: usize,
    element: usize,
    count: *mut usize,
) -> Result<(), Failure> {
    if count.is_null() {
        return Err(Failure::null("count"));
    }
    if out.is_null() && capacity > 0 {
        return Err(Failure::null("out"));
    }
    if capacity > 0 {
        element_size::<T>(element)?;
        if capacity
            .checked_mul(element)
            .is_none_or(|bytes| bytes > isize::MAX as usize)
        {
            return Err(Failure::invalid(format!("capacity {capacity} overflows")));
        }
    }
    for (at, value) in values.iter().take(capacity).enumerate() {
        // SAFETY: at < capacity, so the element lies within what the caller vouches for.
        unsafe {
            ptr::copy_nonoverlapping(
                value.as_bytes().as_ptr(),
                out.cast::<u8>().add(at * element),
                size_of::<T>(),
            );
        }
    }
    // SAFETY: not null, writable as the caller promised.
    unsafe { count.write(values.len()) };
    Ok(())
}

/// An element size that this library serves: its own.
#[inline]
pub(crate) fn element_size<T>(element: usize) -> Result<(), Failure> {
    if element == size_of::<T>() {
        return Ok(());
    }
    Err(Failure::invalid(format!(
        "element_size is {element}, and {} in this library",
        size_of::<T>()
    )))
}

/// A structure's size, as struct_size holds it.
pub(crate) const fn size_of_u32<T>() -> u32 {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "no structure is that large"
    )]
    {
        size_of::<T>() as u32
    }
}
