//! Bindings in any state: late, wrong, of sites that are gone.
use gateway_common::{decide::Identity, layout::Binding};
use proptest::{array::uniform5, collection::vec, prelude::*};

use crate::{
    START_NS, often,
    packets::{Hook, any_arrival},
    world::World,
};

fn any_binding() -> impl Strategy<Value = Binding> {
    (0..6u32, 0..4u32, uniform5(0..4u32)).prop_map(|(site, mark, [first, second, ..])| Binding {
        site,
        mark,
        inbound_spis: [first, second],
    })
}

/// Whatever the tables hold, a packet counts as that site's whose binding has the packet's reqid and mark.
#[test]
fn packet_passes_only_as_the_site_bound_to_its_reqid_and_mark() {
    let bindings = vec(any_binding(), 1..5);
    let identity = (0..5u32, 0..4u32, 1..4u32);
    let spis = vec((0..4u32, 0..4u32), 0..4);
    let strategy = (any_arrival(), bindings, identity, spis);
    often(20_000, 300, strategy, |(mut arrival, bindings, (reqid, spi, mark), spis), noted| {
        let identity = Identity { reqid, spi, mark };
        if !matches!(arrival.hook, Hook::Site(_)) {
            return Ok(());
        }
        arrival.hook = Hook::Site(identity);
        let mut world = World::new();
        world.bindings = (0..).zip(bindings).collect();
        world.inbound_spis = spis.into_iter().collect();
        let decision = arrival.judge(&world, START_NS);
        if decision.verdict.is_ok() {
            noted();
            let binding = world.bindings[&reqid];
            prop_assert_eq!((binding.site, binding.mark), (decision.tunnel, mark));
            let owner = world.inbound_spis.get(&spi);
            prop_assert!(binding.inbound_spis.contains(&spi) || owner.is_none_or(|owner| *owner == mark));
        }
        Ok(())
    });
}
