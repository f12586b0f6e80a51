//! Free nodes in the magazines of several CPUs and in the pool: a model of `gateway-ebpf/src/nodes.rs`, which makes
//! the same calls, against the rule that each node is in one place.
use gateway_common::{
    magazine::{LIST_NODES, Magazine, Pool, SPARE_NODES, nodes},
    node::{MAX_NODES, Node, Number, pairs},
    wire::Ipv4,
};
use proptest::{collection::vec, prelude::*};

/// The free nodes of a machine.
struct Machine {
    nodes: Vec<Node<Ipv4>>,
    magazines: Vec<Magazine>,
    pool: Pool,
    /// Full lists that went to or came from the pool.
    exchanged: u32,
}

impl Machine {
    fn new(flows: u32, cpus: u32) -> Self {
        // SAFETY: a pool holds integers only.
        let pool: Pool = unsafe { std::mem::zeroed() };
        Self {
            nodes: vec![Node::default(); nodes(flows, cpus) as usize + 1],
            magazines: vec![Magazine::default(); cpus as usize],
            pool,
            exchanged: 0,
        }
    }

    fn allocate(&mut self, cpu: usize) -> Option<Number> {
        if !self.magazines[cpu].use_reserve() {
            let list = self.take_list()?;
            self.exchanged += 1;
            assert!(self.magazines[cpu].refill(list));
        }
        let first = self.magazines[cpu].first;
        assert!(self.magazines[cpu].take(first, self.nodes[first as usize].next()));
        Some(first)
    }

    fn take_list(&mut self) -> Option<Number> {
        let list = self.pool.first;
        if list != 0 {
            assert!(self.pool.take(list, self.nodes[list as usize].next_list()));
            return Some(list);
        }
        let highest = self.pool.highest;
        if (highest + LIST_NODES) as usize >= self.nodes.len() {
            return None;
        }
        assert!(self.pool.take_unused(highest));
        for count in 1..=LIST_NODES {
            let next = if count < LIST_NODES { highest + count + 1 } else { 0 };
            self.nodes[(highest + count) as usize] = Node::free(next);
        }
        Some(highest + 1)
    }

    fn free(&mut self, cpu: usize, number: Number) {
        let put = self.magazines[cpu].put(number);
        self.nodes[number as usize] = Node::free(put.next);
        if put.full != 0 {
            self.exchanged += 1;
            let next = self.nodes[put.full as usize].next();
            self.nodes[put.full as usize] = Node::first_of_list(next, self.pool.put(put.full));
        }
    }

    /// Returns the nodes of a list.
    fn list(&self, first: Number) -> Vec<Number> {
        let next = |number: &Number| Some(self.nodes[*number as usize].next());
        std::iter::successors(Some(first), next).take_while(|number| *number != 0).take(1000).collect()
    }

    /// Returns all free nodes that were used before.
    fn all_free(&self) -> Vec<Number> {
        let mut all = Vec::new();
        for magazine in &self.magazines {
            let (first, reserve) = (self.list(magazine.first), self.list(magazine.reserve));
            assert_eq!(first.len(), magazine.count as usize);
            assert!(magazine.count <= LIST_NODES && [0, LIST_NODES as usize].contains(&reserve.len()));
            all.extend(first.into_iter().chain(reserve));
        }
        let mut list = self.pool.first;
        while list != 0 {
            let nodes = self.list(list);
            assert_eq!(nodes.len(), LIST_NODES as usize);
            all.extend(nodes);
            list = self.nodes[list as usize].next_list();
        }
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(300) })]

    /// Flows open and end in any order on any CPU, on another than they were opened on, too.
    #[test]
    fn each_node_is_in_one_place_and_all_flows_get_one(
        flows in 1..200u32,
        cpus in 1..5u32,
        steps in vec((any::<bool>(), 0..5usize, any::<prop::sample::Index>(), 1..100u32), 1..60),
    ) {
        let mut machine = Machine::new(flows, cpus);
        let mut used = Vec::new();
        for (open, cpu, which, times) in steps {
            let cpu = cpu % cpus as usize;
            for _ in 0..times {
                if open && used.len() < flows as usize {
                    let number = machine.allocate(cpu);
                    prop_assert!(number.is_some(), "{} of {flows} flows on {cpus} CPUs", used.len());
                    used.extend(number);
                } else if !open && !used.is_empty() {
                    let number = used.swap_remove(which.index(used.len()));
                    machine.free(cpu, number);
                }
            }
            let mut places = machine.all_free();
            places.extend(&used);
            places.sort_unstable();
            let all: Vec<Number> = (1..=machine.pool.highest).collect();
            prop_assert_eq!(places, all);
        }
    }
}

#[test]
fn cpu_that_opens_and_ends_flows_leaves_the_pool_alone() {
    let mut machine = Machine::new(1000, 2);
    let open: Vec<Number> = (0..100).filter_map(|_| machine.allocate(0)).collect();
    open.iter().for_each(|number| machine.free(0, *number));
    let before = machine.exchanged;
    for round in 0..1000 {
        let opened: Vec<Number> = (0..round % 65).filter_map(|_| machine.allocate(0)).collect();
        opened.iter().for_each(|number| machine.free(0, *number));
    }
    assert_eq!(machine.exchanged, before);
}

#[test]
fn cpu_exchanges_a_list_for_every_32_flows_at_most() {
    let mut machine = Machine::new(100_000, 2);
    let mut open = Vec::new();
    for (flows, end) in [(100_000, true), (31, false), (5_000, true), (64, true), (1, true)].repeat(3) {
        let before = machine.exchanged;
        open.extend((0..flows).filter_map(|_| machine.allocate(0)));
        if end {
            // On another CPU, so that all of them go through the pool.
            open.drain(..).for_each(|number| machine.free(1, number));
        }
        assert!(machine.exchanged - before <= 2 * (flows / LIST_NODES + 2), "{flows}");
    }
}

#[test]
fn list_that_another_cpu_has_taken_is_left_alone() {
    let mut magazine = Magazine { first: 3, count: 2, reserve: 0 };
    assert!(!magazine.take(4, 9));
    assert_eq!(magazine, Magazine { first: 3, count: 2, reserve: 0 });
    assert!(!magazine.refill(64));
    assert_eq!(magazine.first, 3);
    let mut machine = Machine::new(1, 1);
    machine.pool.first = 3;
    assert!(!machine.pool.take(4, 9) && !machine.pool.take_unused(32));
    assert_eq!((machine.pool.first, machine.pool.highest, machine.pool.retried), (3, 0, 2));
}

#[test]
fn nodes_grow_with_flows_and_with_cpus_but_not_with_both() {
    assert_eq!(nodes(1, 1), 128);
    for (flows, cpus) in [(1, 1), (64, 2), (1 << 20, 64), (MOST_FLOWS, 64), (MOST_FLOWS, 8192)] {
        let spare = nodes(flows, cpus) - flows;
        assert!((cpus * SPARE_NODES..=cpus * SPARE_NODES + LIST_NODES).contains(&spare), "{flows} {cpus}");
        assert_eq!(nodes(flows, cpus) % LIST_NODES, 0);
        assert_eq!(pairs(nodes(flows, cpus)), nodes(flows, cpus) / 2 + 1);
    }
    assert_eq!([nodes(MAX_NODES - 1, 1), nodes(u32::MAX, 64)], [MAX_NODES / LIST_NODES * LIST_NODES; 2]);
}

/// The most flows that a policy allows.
const MOST_FLOWS: u32 = (1 << 24) - 1;
