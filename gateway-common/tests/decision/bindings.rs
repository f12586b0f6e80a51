//! Bindings in any state: late, wrong, of sites that are gone.
use gateway_common::{decide::Identity, layout::Binding};
use proptest::{array::uniform4, collection::vec, prelude::*};

use crate::{
    START_NS, often,
    packets::{Hook, any_arrival},
    world::{World, reqid},
};

/// Generates a binding, half of the time of no certain site.
fn any_binding() -> impl Strategy<Value = (Option<u32>, [u32; 3])> {
    (proptest::option::of(0..6u32), uniform4(0..3u32))
        .prop_map(|(site, [mark, first, second, _])| (site, [mark, first, second]))
}

/// Whatever the tables hold, a packet counts as that site's whose binding has the packet's reqid and mark.
#[test]
fn packet_passes_only_as_the_site_bound_to_its_reqid_and_mark() {
    let identity = (0..2u32, 0..4u32, 1..3u32);
    let spis = vec((0..4u32, 0..3u32), 0..4);
    let strategy = (any_arrival(), [any_binding(), any_binding()], identity, spis);
    often(5_000, 50, strategy, |(mut arrival, bindings, (number, spi, mark), spis), noted| {
        let Hook::Site(sender) = arrival.hook else { return Ok(()) };
        arrival.hook = Hook::Site(Identity { reqid: number, spi, mark });
        let mut world = World::new();
        world.bindings = (0..)
            .zip(bindings.map(|(site, [mark, first, second])| Binding {
                site: site.unwrap_or(sender.reqid.saturating_sub(reqid(0))),
                mark,
                inbound_spis: [first, second],
            }))
            .collect();
        world.inbound_spis = spis.into_iter().collect();
        let decision = arrival.judge(&world, START_NS);
        if decision.verdict.is_ok() {
            noted();
            let binding = world.bindings[&number];
            prop_assert_eq!((binding.site, binding.mark), (decision.tunnel, mark));
            let owner = world.inbound_spis.get(&spi);
            prop_assert!(binding.inbound_spis.contains(&spi) || owner.is_none_or(|owner| *owner == mark));
        }
        Ok(())
    });
}
