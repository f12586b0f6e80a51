//! The time from an event of charon to the map entry that follows from it.
use std::{
    sync::{
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use gateway::strongswan::{EventKind, Events};

use super::{gateway::Gateway, sites::Sites};

/// Interval of events: 100 a second. With many tunnels the sites' charon gives fewer: it looks at all of them for each.
const INTERVAL: Duration = Duration::from_millis(10);
/// Longest time that events are waited for.
const LIMIT: Duration = Duration::from_secs(90);
/// Pause between two looks at the map.
const LOOK: Duration = Duration::from_micros(100);
/// Time after which an event counts as lost.
const LOST: Duration = Duration::from_secs(5);

/// Has sites rekey CHILD_SAs until `count` events were seen or time is over. Returns the time from each event, as another
/// client of charon gets it, until the map has the new SPI.
pub fn measure(gateway: &Gateway, sites: &mut Sites, count: usize) -> Result<Vec<Duration>> {
    let stop = AtomicBool::new(false);
    let (sender, spis) = mpsc::channel();
    thread::scope(|scope| {
        let heard = scope.spawn(|| hear(gateway, &sender, &stop));
        let rekeyed = scope.spawn(|| sites.rekey(INTERVAL, &stop));
        let delays = watch(gateway, &spis, count);
        stop.store(true, Relaxed);
        let panicked = |_| anyhow!("a thread panicked");
        heard.join().map_err(panicked)??;
        rekeyed.join().map_err(panicked)??;
        delays
    })
}

/// Passes on each new inbound SPI with the time at which charon told it.
fn hear(gateway: &Gateway, sender: &mpsc::Sender<(Instant, u32)>, stop: &AtomicBool) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut events = Events::connect(gateway.vici()).await?;
        while !stop.load(Relaxed) {
            let Ok(event) = tokio::time::timeout(10 * INTERVAL, events.next()).await else { continue };
            let (now, event) = (Instant::now(), event?);
            if let (EventKind::ChildRekey, [_, new]) = (event.kind, &event.children[..]) {
                // The watcher ends first, and needs no more then.
                let _ = new.spi_in.map(|spi| sender.send((now, spi)));
            }
        }
        Ok(())
    })
}

/// Watches the map.
fn watch(gateway: &Gateway, spis: &mpsc::Receiver<(Instant, u32)>, count: usize) -> Result<Vec<Duration>> {
    let maps = gateway.maps()?;
    let begun = Instant::now();
    let (mut waiting, mut delays, mut heard) = (Vec::new(), Vec::new(), 0);
    while !(waiting.is_empty() && (heard >= count || begun.elapsed() > LIMIT)) {
        for (at, spi) in spis.try_iter().take(count - heard).collect::<Vec<_>>() {
            waiting.push((at, spi));
            heard += 1;
        }
        let mut left = Vec::new();
        for (at, spi) in waiting {
            match maps.inbound_spi(spi)? {
                Some(_) => delays.push(at.elapsed()),
                None if at.elapsed() < LOST => left.push((at, spi)),
                None => {}
            }
        }
        waiting = left;
        thread::sleep(LOOK);
    }
    eprintln!("  {:.0} events a second", heard as f64 / begun.elapsed().as_secs_f64());
    ensure!(delays.len() == heard, "{} events led to no entry", heard - delays.len());
    Ok(delays)
}
