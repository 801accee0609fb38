//! The guest kernel's log, read for what a healthy kernel never says.

/// Words that begin a complaint of the kernel. Each stands for lines that follow it.
const COMPLAINTS: [&str; 25] = [
    "WARNING: ",
    "BUG: ",
    "kernel BUG at",
    "Oops: ",
    "Oops[",
    "general protection fault",
    "Unable to handle kernel",
    "Kernel panic",
    "Call Trace:",
    "INFO: task ",
    "rcu: INFO:",
    "rcu_sched self-detected",
    "refcount_t: ",
    "list_add corruption",
    "list_del corruption",
    "UBSAN: ",
    "KASAN: ",
    "INFO: possible ",
    "INFO: inconsistent lock state",
    "unreferenced object 0x",
    "DEBUG_LOCKS_WARN_ON",
    "Trying to vfree",
    "divide error: ",
    "invalid opcode: ",
    "turning off the locking correctness validator",
];

/// The lines of a log that are complaints. A trace alone counts too.
pub fn complaints(log: &str) -> Vec<&str> {
    log.lines()
        .filter(|line| COMPLAINTS.iter().any(|words| line.contains(words)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_an_oops_and_a_leak_are_found() {
        let log = "[    1.0] vfio-pci 0000:01:00.0: enabling device\n\
                   [    2.0] WARNING: CPU: 0 PID: 1 at drivers/vfio/vfio_main.c:1 f+0x1\n\
                   [    3.0] Oops: 0000 [#1] PREEMPT SMP\n\
                   [    4.0] WARNING: possible circular locking dependency detected\n\
                   unreferenced object 0xffff888003f6a000 (size 64):";
        assert_eq!(complaints(log).len(), 4);
    }

    #[test]
    fn ordinary_lines_are_left_alone() {
        let log = "[    0.1] Booting paravirtualized kernel on bare hardware\n\
                   [    0.2] debug: ignoring loglevel setting\n\
                   [    0.3] iommufd: loading out-of-tree module taints kernel.\n\
                   [    0.4] rcu: Hierarchical RCU implementation.";
        assert_eq!(complaints(log), Vec::<&str>::new());
    }
}
