//! `gatewayctl status`: daemon, charon, tunnels, faults and quota use.
use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result};
use gateway::{
    kernel::{clock::monotonic_ns, maps::Maps, pins::Pins},
    status::{Status, TunnelStatus},
};
use gateway_common::{
    layout::{Quota, Usage},
    time::Ticks,
    wheel::{SLOT_NS, SLOTS, Wheel},
};
use serde_json::{Value, json};

use crate::{
    cookies,
    names::Names,
    report::{Part, Report},
    table::Table,
};

/// Reports the last state that gatewayd wrote, and the use of the flow tables.
pub fn report(state: &Path, pins: &Pins) -> Result<Report> {
    let status = Status::read(state)
        .with_context(|| format!("no status in {}: has gatewayd run here?", state.display()))?;
    let usage = Maps::open(pins).and_then(|maps| TableUse::read(&maps, &Names::read(state)?));
    let comm = fs::read_to_string(format!("/proc/{}/comm", status.pid)).unwrap_or_default();
    let running = comm.trim() == "gatewayd";
    let mut report = Report { json: as_json(&status, &usage)?, parts: as_text(&status, running, &usage) };
    cookies::add_to(&mut report, pins);
    Ok(report)
}

fn as_json(status: &Status, usage: &Result<TableUse>) -> Result<Value> {
    let mut object = serde_json::to_value(status)?;
    match usage {
        Ok(usage) => {
            object["customers"] = usage.customers.iter().map(CustomerUse::json).collect();
            object["expiry_silent_seconds"] = usage.expiry.silent_seconds.into();
            object["expiry_behind_seconds"] = usage.expiry.behind_seconds.into();
        }
        Err(error) => object["tables"] = format!("{error:#}").into(),
    }
    Ok(object)
}

fn as_text(status: &Status, running: bool, usage: &Result<TableUse>) -> Vec<Part> {
    let daemon = if running { format!("running, pid {}", status.pid) } else { "not running".to_owned() };
    let fault = status.charon_fault.as_ref().map(|fault| format!(": {fault}")).unwrap_or_default();
    let charon = format!("{}{fault}", status.charon.as_deref().unwrap_or("not connected"));
    let mut parts = vec![
        Part::Line(format!("gatewayd  {daemon}")),
        Part::Line(format!("charon    {charon}")),
        Part::Line(format!("XDP       {}", status.xdp)),
        Part::Table(tunnels(status)),
    ];
    parts.extend(status.tunnels.iter().filter_map(narrow_path).map(Part::Line));
    for (what, count) in [("refused", status.refused), ("restored", status.restored)] {
        if count > 0 {
            parts.push(Part::Line(format!("{what:<9} {count} times")));
        }
    }
    match usage {
        Ok(usage) => parts.extend(usage.parts()),
        Err(error) => parts.push(Part::Line(format!("tables: {error:#}"))),
    }
    for (what, lines) in
        [("stranger", &status.strangers), ("policy fault", &status.faults), ("failed", &status.failed)]
    {
        parts.extend(lines.iter().map(|line| Part::Line(format!("{what}: {line}"))));
    }
    parts
}

/// Returns the line of a site to which a router announced a smaller MTU.
fn narrow_path(tunnel: &TunnelStatus) -> Option<String> {
    let TunnelStatus { customer, site, .. } = tunnel;
    Some(format!(
        "narrow path: {} bytes to {customer}.{site}, says a router on the way",
        tunnel.path_mtu_bytes?
    ))
}

fn tunnels(status: &Status) -> Table {
    let mut table = Table::new(["number", "customer", "site", "state", "peer", "cipher", "MSS"])
        .droppable(["cipher", "MSS", "number", "peer"]);
    for tunnel in &status.tunnels {
        // A space between algorithms lets the cell wrap.
        let cipher = tunnel.cipher.clone().unwrap_or_default().replace('/', " ");
        let (v4, v6) = tunnel.mss;
        table.add_row([
            tunnel.id.to_string(),
            tunnel.customer.clone(),
            tunnel.site.clone(),
            if tunnel.up { "up" } else { "down" }.to_owned(),
            tunnel.peer.clone().unwrap_or_default(),
            if tunnel.encapsulated { format!("{cipher} in UDP") } else { cipher },
            format!("{v4} / {v6}"),
        ]);
    }
    table
}

/// Use of the flow tables, and what removes flows from them.
struct TableUse {
    customers: Vec<CustomerUse>,
    expiry: ExpiryState,
}

/// The state of the timing wheel that is worst off.
#[derive(Clone, Copy, Default)]
struct ExpiryState {
    /// Age of the last expiry run.
    silent_seconds: u64,
    /// How late ended flows are removed.
    behind_seconds: u64,
}

/// A customer's flows and quota.
struct CustomerUse {
    customer: String,
    usage: Usage,
    quota: Quota,
}

impl TableUse {
    fn read(maps: &Maps, names: &Names) -> Result<Self> {
        // All tunnels of a customer hold the same quota.
        let quotas: BTreeMap<u32, Quota> =
            maps.tunnels()?.values().map(|tunnel| (tunnel.customer, tunnel.quota)).collect();
        let customers = quotas.into_iter().map(|(number, quota)| {
            let customer = names.customer(number).unwrap_or_default();
            Ok(CustomerUse { customer, usage: maps.usage(number)?, quota })
        });
        let now = Ticks::from_ns(monotonic_ns());
        Ok(Self {
            customers: customers.collect::<Result<_>>()?,
            expiry: ExpiryState::of(&maps.wheels()?, now),
        })
    }

    fn parts(&self) -> Vec<Part> {
        let mut table = Table::new(["customer", "flows", "half-open"]);
        for CustomerUse { customer, usage, quota } in &self.customers {
            table.add_row([
                customer.clone(),
                format!("{} of {}", usage.flows, quota.flows),
                format!("{} of {}", usage.half_open, quota.half_open),
            ]);
        }
        let mut parts = vec![Part::Table(table)];
        parts.extend(self.expiry.warning().map(Part::Line));
        parts
    }
}

impl ExpiryState {
    /// Age from which an expiry run is overdue. The timers fire about once a second.
    const OVERDUE_SECONDS: u64 = 10;
    /// A wheel that stays so far behind has more flows than it can visit in a turn.
    const LATE_SECONDS: u64 = 30;

    fn of(wheels: &[Wheel], now: Ticks) -> Self {
        let worst = |value: fn(&Wheel, Ticks) -> u64| wheels.iter().map(|wheel| value(wheel, now)).max();
        let silent_ns = worst(|wheel, now| now.since(wheel.ran).as_ns());
        // A hand that is further behind skips what lies more than a turn back.
        let behind_ns = worst(|wheel, now| u64::from(wheel.behind(now).min(SLOTS as u32)) * SLOT_NS);
        let seconds = |ns: Option<u64>| ns.unwrap_or_default() / 1_000_000_000;
        Self { silent_seconds: seconds(silent_ns), behind_seconds: seconds(behind_ns) }
    }

    fn warning(self) -> Option<String> {
        let Self { silent_seconds, behind_seconds } = self;
        if silent_seconds > Self::OVERDUE_SECONDS {
            return Some(format!(
                "warning: no flow that has ended was removed for {silent_seconds} s on some CPU, so the tables \
                 fill: restart gatewayd"
            ));
        }
        (behind_seconds > Self::LATE_SECONDS).then(|| {
            format!(
                "warning: flows that have ended are removed {behind_seconds} s late on some CPU, which has too many"
            )
        })
    }
}

impl CustomerUse {
    fn json(&self) -> Value {
        json!({
            "customer": self.customer,
            "flows": self.usage.flows, "max_flows": self.quota.flows,
            "half_open": self.usage.half_open, "max_half_open": self.quota.half_open,
        })
    }
}

#[cfg(test)]
mod tests {
    use gateway_common::wheel::slot_at;

    use super::*;
    use crate::report::Format;

    /// Returns the text of a status with one tunnel, without the lines that are no tables.
    fn rendered(tunnel: TunnelStatus, width: usize) -> String {
        let status = Status { tunnels: vec![tunnel], ..Status::default() };
        let quota = Quota { flows: 16_777_215, half_open: 16_777_215, ..Quota::default() };
        let usage = Usage { flows: 16_777_215, half_open: 16_777_215, ..Usage::default() };
        let customer = CustomerUse { customer: status.tunnels[0].customer.clone(), usage, quota };
        let usage = TableUse { customers: vec![customer], expiry: ExpiryState::default() };
        let parts = as_text(&status, true, &Ok(usage));
        Report { json: Value::Null, parts }.render(Format::Text(Some(width))).unwrap()
    }

    fn berlin() -> TunnelStatus {
        TunnelStatus {
            customer: "acme".into(),
            site: "berlin".into(),
            id: 3,
            up: true,
            peer: Some("203.0.113.200:4500".into()),
            cipher: Some("AES_GCM_16_256/CURVE_25519".into()),
            encapsulated: true,
            mss: (1398, 1378),
            path_mtu_bytes: None,
        }
    }

    /// Returns a wheel that ran, and whose hand is, this many seconds before a time.
    fn wheel(now: Ticks, silent: u32, behind: u32) -> Wheel {
        let before = |seconds| Ticks { ticks: now.ticks.wrapping_sub(Ticks::from_seconds(seconds).ticks) };
        // SAFETY: a wheel holds integers only.
        let zero: Wheel = unsafe { std::mem::zeroed() };
        Wheel { ran: before(silent), hand: slot_at(before(behind)), ..zero }
    }

    #[test]
    fn wheel_that_is_silent_or_late_is_warned_of() {
        for now in [Ticks { ticks: 1 << 20 }, Ticks { ticks: 100 }] {
            let state = |wheels: &[(u32, u32)]| {
                let wheels: Vec<Wheel> =
                    wheels.iter().map(|(silent, behind)| wheel(now, *silent, *behind)).collect();
                ExpiryState::of(&wheels, now)
            };
            assert_eq!(state(&[(1, 1), (2, 20)]).warning(), None);
            assert!(state(&[(1, 1), (12, 1)]).warning().is_some_and(|text| text.contains("removed for 1")));
            assert!(
                state(&[(1, 40), (1, 1)]).warning().is_some_and(|text| text.contains("s late on some CPU"))
            );
            assert_eq!(state(&[(1, 1), (12, 1)]).silent_seconds, 11, "ticks are rounded down");
        }
    }

    #[test]
    fn path_that_a_router_narrowed_is_named() {
        let line = "narrow path: 1400 bytes to acme.berlin, says a router on the way";
        assert!(!rendered(berlin(), 200).contains("narrow path"));
        assert!(rendered(TunnelStatus { path_mtu_bytes: Some(1400), ..berlin() }, 200).contains(line));
    }

    #[test]
    fn tables_fit_60_columns() {
        let longest = TunnelStatus {
            customer: "c".repeat(32),
            site: "s".repeat(32),
            id: 1_000_000,
            peer: Some("[2001:db8:ffff:ffff:ffff:ffff:ffff:ffff]:65535".into()),
            cipher: Some("AES_CBC_256/HMAC_SHA2_512_256/CURVE_25519".into()),
            ..berlin()
        };
        for tunnel in [berlin(), longest] {
            let text = rendered(tunnel, 60);
            assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        }
    }

    #[test]
    fn narrow_terminal_keeps_customer_site_and_state() {
        let text = rendered(berlin(), 60);
        assert!(
            ["acme", "berlin", " up", "203.0.113.200:4500"].iter().all(|cell| text.contains(cell)),
            "{text}"
        );
    }

    #[test]
    fn wide_terminal_shows_every_column() {
        let text = rendered(berlin(), 200);
        assert!(text.contains("AES_GCM_16_256 CURVE_25519 in UDP") && text.contains("1398 / 1378"), "{text}");
    }
}
