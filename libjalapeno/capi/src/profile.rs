//! `jal_job_stats`: what a finished job took.

use jalapeno::Seq;
use jalapeno::hw::packets::Opcode;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::guard::call;
use crate::registries::QUEUES;
use crate::sized;

/// `jal_stats`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Stats {
    struct_size: u32,
    opcode: u32,
    kernel: u32,
    failed: u32,
    sequence: u64,
    cookie: u64,
    start: u64,
    end: u64,
    energy_nj: u64,
    bytes: u64,
    operations: u64,
}

const STATS_LEAST: usize = size_of::<Stats>();

/// `jal_job_stats`.
///
/// # Safety
/// As in jalapeno.h: `out` is readable and writable for its struct_size.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn jal_job_stats(queue: u64, sequence: u64, out: *mut Stats) -> i32 {
    call(|| {
        // SAFETY: promised by the caller.
        let size = unsafe { sized::check_out(out, "out", STATS_LEAST) }?;
        let producer = QUEUES.enter(queue)?;
        let stats = producer.completions.stats(Seq(sequence))?;
        let filled = Stats {
            struct_size: 0,
            opcode: stats.opcode.map_or_else(u32::from, Opcode::code),
            kernel: stats.kernel,
            failed: stats.failed.into(),
            sequence: stats.seq.0,
            cookie: stats.cookie,
            start: stats.start.0,
            end: stats.end.0,
            energy_nj: stats.energy_nj,
            bytes: stats.bytes,
            operations: stats.operations,
        };
        // SAFETY: as checked above.
        unsafe { sized::fill(out, size, &filled) };
        Ok(())
    })
}
