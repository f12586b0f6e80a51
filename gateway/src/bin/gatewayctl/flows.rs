//! `gatewayctl flows`: the connections in the flow tables, written as they are read: a table may have millions.
use std::{
    collections::BTreeSet,
    io::Write,
    net::{IpAddr, SocketAddr},
    ops::ControlFlow,
};

use anyhow::Result;
use gateway::kernel::{
    clock::monotonic_ns,
    maps::{FamilyFlowTable, Maps, each_flow, pinned_size},
    pins::Pins,
};
use gateway_common::{
    family::Family,
    ids::TunnelId,
    layout::map_list,
    tcp::{Flow, FlowKey, State, status},
    time::Ticks,
    wire::{Ipv4, Ipv6},
};
use ipnet::IpNet;
use serde_json::json;

use crate::{
    names::Names,
    output::Output,
    report::Format,
    selection::{Filters, Selection},
};

/// Columns with their widths, in the order of [`Row::cells`]. The last one ends the line.
type Columns = Vec<(usize, &'static str, usize)>;

/// Spaces between columns.
const GAP: usize = 2;
/// Widths of a device's address and port: `255.255.255.255:65535`, and an IPv6 address of eight groups.
const DEVICE_WIDTH: (usize, usize) = (21, 47);

/// Writes the flows of both address families that the filters select.
pub fn list<W: Write>(
    pins: &Pins,
    names: &Names,
    filters: &Filters,
    format: Format,
    output: &mut Output<W>,
) -> Result<()> {
    let maps = Maps::open(pins)?;
    let selection = Selection::new(filters, names, |net| customers_at(&maps, net))?;
    let has_v6 = pinned_size(pins, &map_list::FLOWS6).is_some_and(|entries| entries > 1);
    let columns = columns(names, format, has_v6);
    if !matches!(format, Format::Json) {
        output.write(&line(&columns, TITLES.map(str::to_owned)))?;
    }
    let lister = Lister { maps: &maps, names, selection: &selection, columns: &columns, format };
    lister.list::<Ipv4, W>(pins, output)?;
    lister.list::<Ipv6, W>(pins, output)?;
    match TITLES.len() - columns.len() {
        0 => Ok(()),
        _ if matches!(format, Format::Json) => Ok(()),
        dropped => {
            let dropped: Vec<&str> = DROPPABLE[..dropped].iter().map(|column| TITLES[*column]).collect();
            output.write(&format!("Not shown, for lack of space: {} (see --json)\n", dropped.join(", ")))
        }
    }
}

/// Returns the customers whose server is in a prefix.
fn customers_at(maps: &Maps, net: IpNet) -> Result<BTreeSet<u32>> {
    if net.prefix_len() == net.max_prefix_len() {
        return Ok(maps.customer(net.addr())?.map(|customer| customer.id).into_iter().collect());
    }
    let customers = maps.customers()?;
    Ok(customers
        .iter()
        .filter(|(server, _)| net.contains(*server))
        .map(|(_, customer)| customer.id)
        .collect())
}

/// Writes flows one by one.
struct Lister<'a> {
    maps: &'a Maps,
    names: &'a Names,
    selection: &'a Selection,
    columns: &'a Columns,
    format: Format,
}

impl Lister<'_> {
    /// Writes the flows of one family until nobody reads them any more.
    fn list<A: FamilyFlowTable + Family, W: Write>(&self, pins: &Pins, output: &mut Output<W>) -> Result<()>
    where
        FlowKey<A>: aya::Pod + Default,
    {
        let mut written = Ok(());
        each_flow::<A>(pins, |key, flow| {
            let device: IpAddr = key.lan_address.mapped().into();
            if !self.selection.has(key.customer, flow.tunnel, device) {
                return ControlFlow::Continue(());
            }
            written = output.write(&self.row(key, flow).text(self.columns, self.format));
            match written.is_ok() && !output.is_closed() {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        })?;
        written
    }

    fn row<A: Family>(&self, key: &FlowKey<A>, flow: &Flow) -> Row {
        let tunnel = TunnelId::new(flow.tunnel).and_then(|id| self.maps.tunnel(id).ok());
        let of_this_policy = tunnel.is_some_and(|tunnel| tunnel.generation == flow.generation);
        Row::new(key, flow, self.names, of_this_policy, Ticks::from_ns(monotonic_ns()))
    }
}

const TITLES: [&str; 6] = ["customer", "site", "state", "ends in", "handshake", "device"];
/// Columns that may disappear from a narrow terminal, the least important first.
const DROPPABLE: [usize; 3] = [4, 1, 3];

/// Returns the columns that fit. Their widths are those of the longest cells that there may be: rows are not known yet.
fn columns(names: &Names, format: Format, has_v6: bool) -> Columns {
    let longest = |words: &[&str]| words.iter().map(|word| word.len()).max().unwrap_or(0);
    let states: Vec<&str> = State::ALL.iter().map(|state| state.name()).collect();
    let (customer, site) = names.longest();
    let device = if has_v6 { DEVICE_WIDTH.1 } else { DEVICE_WIDTH.0 };
    let widths = [customer, site, longest(&states), "999999 s".len(), longest(&HANDSHAKES), device];
    let mut columns: Columns = (0..TITLES.len())
        .map(|column| (column, TITLES[column], widths[column].max(TITLES[column].len())))
        .collect();
    let Format::Text(Some(width)) = format else { return columns };
    let takes = |columns: &Columns| columns.iter().map(|(_, _, width)| width + GAP).sum::<usize>() - GAP;
    for dropped in DROPPABLE {
        if takes(&columns) > width {
            columns.retain(|(column, ..)| *column != dropped);
        }
    }
    columns
}

/// Returns a line with these cells.
fn line(columns: &Columns, cells: [String; TITLES.len()]) -> String {
    let shown =
        columns.iter().map(|(column, _, width)| format!("{:width$}", cells[*column], width = width + GAP));
    shown.collect::<String>().trim_end().to_owned() + "\n"
}

const HANDSHAKES: [&str; 3] = ["half-open", "complete", "not seen"];

/// A flow as it is shown.
struct Row {
    customer: Option<String>,
    site: String,
    tunnel: u32,
    device: SocketAddr,
    state: &'static str,
    over: bool,
    left_seconds: u64,
    handshake: &'static str,
    generation: u16,
    retransmissions: u8,
}

impl Row {
    /// Describes a flow. One of an older policy is over: no packet revives it.
    fn new<A: Family>(
        key: &FlowKey<A>,
        flow: &Flow,
        names: &Names,
        of_this_policy: bool,
        now: Ticks,
    ) -> Self {
        let [half_open, complete, not_seen] = HANDSHAKES;
        Self {
            customer: names.customer(key.customer),
            site: names.site(flow.tunnel),
            tunnel: flow.tunnel,
            device: SocketAddr::new(key.lan_address.mapped().into(), key.lan_port),
            state: State::from_number(flow.state()).map_or("ending", State::name),
            over: flow.is_over(now) || !of_this_policy,
            left_seconds: flow.expires.since(now).as_ns() / 1_000_000_000,
            handshake: match (flow.has(status::HALF_OPEN), flow.has(status::ASSURED)) {
                (true, _) => half_open,
                (false, true) => complete,
                (false, false) => not_seen,
            },
            generation: flow.generation,
            retransmissions: flow.retransmissions(),
        }
    }

    /// Returns the row's line: of a table, or of JSON.
    fn text(self, columns: &Columns, format: Format) -> String {
        match format {
            Format::Json => self.json(),
            Format::Text(_) => line(columns, self.cells()),
        }
    }

    fn json(self) -> String {
        let Self { customer, site, tunnel, device, state, over, left_seconds, handshake, .. } = self;
        let object = json!({
            "customer": customer, "site": site, "tunnel": tunnel,
            "lan_address": device.ip(), "lan_port": device.port(),
            "state": state, "over": over, "ends_in_seconds": left_seconds, "handshake": handshake,
            "generation": self.generation, "retransmissions": self.retransmissions,
        });
        object.to_string() + "\n"
    }

    fn cells(self) -> [String; TITLES.len()] {
        [
            self.customer.unwrap_or_default(),
            self.site,
            self.state.to_owned(),
            if self.over { "over".to_owned() } else { format!("{} s", self.left_seconds) },
            self.handshake.to_owned(),
            self.device.to_string(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    fn row(names: &Names, lan_address: Ipv6) -> Row {
        let key = FlowKey { customer: 1, lan_address, lan_port: 65_535, ..FlowKey::default() };
        Row::new(&key, &Flow { tunnel: 10, ..Flow::default() }, names, true, Ticks::from_ns(0))
    }

    #[test]
    fn lines_have_fixed_columns_and_fit_60() {
        let names = Names::of(&["acme", "a-customer"]);
        let format = Format::Text(Some(60));
        let columns = columns(&names, format, false);
        let head = line(&columns, TITLES.map(str::to_owned));
        assert_eq!(head, "customer    state        ends in   device\n");
        let row = row(&names, Ipv6::from(IpAddr::V4([192, 168, 200, 200].into()))).text(&columns, format);
        assert_eq!(row, "acme        ending       over      192.168.200.200:65535\n");
    }

    #[test]
    fn longest_address_fits_the_widest_column() {
        let device = row(&Names::of(&["acme"]), Ipv6::from(Ipv6Addr::from([0xfdab; 8]))).device.to_string();
        assert_eq!(device.len(), DEVICE_WIDTH.1);
    }

    #[test]
    fn json_is_one_object_a_line_with_names_and_numbers() {
        let names = Names::of(&["acme"]);
        let columns = columns(&names, Format::Json, true);
        assert_eq!(columns.len(), TITLES.len());
        let text = row(&names, Ipv6::from(Ipv6Addr::LOCALHOST)).text(&columns, Format::Json);
        assert_eq!(text.lines().count(), 1);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["customer"], "acme");
        assert_eq!(object["site"], "berlin");
        assert_eq!(object["tunnel"], 10);
    }
}
