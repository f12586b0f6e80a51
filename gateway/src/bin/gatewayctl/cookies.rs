//! IKE cookies in `gatewayctl status`.
use anyhow::Result;
use gateway::{
    cookies::CHARON_ASKS,
    kernel::{
        clock::monotonic_ns,
        cookies::{Cookies, Counts},
        pins::Pins,
    },
};
use serde_json::json;

use crate::report::{Part, Report};

/// Adds the counters of IKE cookies to a report, if the gateway is attached.
pub fn add_to(report: &mut Report, pins: &Pins) {
    let counts: Result<Counts> = Cookies::open(pins).and_then(|cookies| cookies.counts(monotonic_ns()));
    if let Ok(counts) = counts {
        add(report, &counts);
    }
}

fn add(report: &mut Report, counts: &Counts) {
    let Counts { asked, proved, asked_by_charon, in_demand } = *counts;
    report.json["ike_cookies"] = json!({
        "asked": asked, "proved": proved, "asked_by_charon": asked_by_charon, "in_demand": in_demand,
    });
    let now = if in_demand { ", in a flood now" } else { "" };
    report.parts.push(Part::Line(format!("IKE cookies: {asked} asked for, {proved} valid ones shown{now}")));
    if asked_by_charon > 0 {
        report.parts.push(Part::Line(format!("warning: {CHARON_ASKS} ({asked_by_charon} times)")));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Format;

    fn text(counts: &Counts) -> String {
        let mut report = Report { json: json!({}), parts: Vec::new() };
        add(&mut report, counts);
        report.render(Format::Text(Some(200))).unwrap()
    }

    #[test]
    fn charons_own_cookies_are_a_warning() {
        let counts = Counts { asked: 7, proved: 5, asked_by_charon: 0, in_demand: true };
        let calm = text(&counts);
        assert!(calm.contains("7 asked for, 5 valid ones shown, in a flood now"), "{calm}");
        assert!(!calm.contains("warning"), "{calm}");
        let warned = text(&Counts { asked_by_charon: 3, ..counts });
        assert!(warned.contains("warning: charon asks") && warned.contains("(3 times)"), "{warned}");
    }
}
