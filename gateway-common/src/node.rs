//! Nodes: each flow has one, which is in a list of a timing wheel (`wheel.rs`). Free nodes are in the lists of a
//! CPU or of the pool (`magazine.rs`).
use crate::{tcp::flow::FlowKey, wire::Ipv4};

/// The number of a flow's node, 28 bits; 0 for none.
pub type Number = u32;
/// The highest node number.
pub const MAX_NODES: Number = (1 << 28) - 1;
/// Bits of a customer's id in a node.
const CUSTOMER_BITS: u32 = 20;
/// The highest customer id.
pub const MAX_CUSTOMER: u32 = (1 << CUSTOMER_BITS) - 1;

/// A flow's node: the flow's key, and the next node in its list. A free node that begins a full list in the pool
/// holds the next full list in place of the key.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C)]
pub struct Node<A> {
    /// The device's address.
    pub lan_address: A,
    /// Bits 0 to 19: the customer. Bits 20 to 31: bits 16 to 27 of the next node's number.
    pub customer_next: u32,
    /// Bits 16 to 31: the device's port. Bits 0 to 15: bits 0 to 15 of the next node's number.
    pub port_next: u32,
}

impl<A: Copy> Node<A> {
    /// Builds a flow's node, followed by `next` in its list.
    #[inline(always)]
    pub fn new(key: &FlowKey<A>, next: Number) -> Self {
        Self {
            lan_address: key.lan_address,
            customer_next: (key.customer & MAX_CUSTOMER) | (next >> 16) << CUSTOMER_BITS,
            port_next: u32::from(key.lan_port) << 16 | (next & 0xffff),
        }
    }

    /// Returns the flow's key.
    #[inline(always)]
    pub fn key(&self) -> FlowKey<A> {
        FlowKey {
            customer: self.customer_next & MAX_CUSTOMER,
            lan_address: self.lan_address,
            lan_port: (self.port_next >> 16) as u16,
            _reserved: 0,
        }
    }

    /// Returns the next node in its list.
    #[inline(always)]
    pub fn next(&self) -> Number {
        (self.customer_next >> CUSTOMER_BITS) << 16 | (self.port_next & 0xffff)
    }
}

impl<A: Copy + Default> Node<A> {
    /// Builds a free node, followed by `next` in its list.
    #[inline(always)]
    pub fn free(next: Number) -> Self {
        Self::first_of_list(next, 0)
    }

    /// Builds the first node of a full list, which the list that begins with `list` follows in the pool.
    #[inline(always)]
    pub fn first_of_list(next: Number, list: Number) -> Self {
        Self::new(&FlowKey::new(list >> 16, A::default(), list as u16), next)
    }

    /// Returns the first node of the next full list in the pool.
    #[inline(always)]
    pub fn next_list(&self) -> Number {
        let FlowKey { customer, lan_port, .. } = self.key();
        customer << 16 | u32::from(lan_port)
    }
}

/// Two nodes, an even number and the next one: the kernel pads the elements of an array to 8 bytes.
#[derive(Clone, Copy, Default, Debug)]
#[repr(C)]
pub struct Pair<A> {
    /// The nodes.
    pub nodes: [Node<A>; 2],
}

/// Returns the number of pairs for nodes 0 to `nodes`.
pub const fn pairs(nodes: Number) -> u32 {
    nodes / 2 + 1
}

const _: () = assert!(size_of::<Node<Ipv4>>() == 12);
const _: () = assert!(MAX_NODES >> 16 <= MAX_CUSTOMER, "a free node holds a node's number as its key");
