//! The distance between two functions: what traffic from one to the other passes.

use super::Function;

/// See the file's head; near ones first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Distance {
    /// One and the same function.
    Itself,
    /// A switch that both are behind.
    Switch,
    /// Their root port.
    RootPort,
    /// The host's bridge, or its fabric within one NUMA node. Also where the machine has one node
    /// only, and says none.
    NumaNode,
    /// The connection between NUMA nodes.
    Across,
}

impl Distance {
    /// Between two functions of one machine.
    #[must_use]
    pub fn between(one: &Function, other: &Function) -> Self {
        if one.address == other.address {
            return Self::Itself;
        }
        let (theirs, ours) = (other.upstream(), one.upstream());
        let pairs = ours.iter().zip(&theirs);
        match pairs.take_while(|(a, b)| a.address == b.address).count() {
            0 if one.numa_node() == other.numa_node() => Self::NumaNode,
            0 => Self::Across,
            1 => Self::RootPort,
            _ => Self::Switch,
        }
    }

    /// The name scripts may rely on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Itself => "itself",
            Self::Switch => "same-switch",
            Self::RootPort => "same-root-port",
            Self::NumaNode => "same-numa-node",
            Self::Across => "across-numa-nodes",
        }
    }
}
