//! The fates of requests: which are answered with a cookie, and the budget that each other one is charged to.
use std::collections::HashMap;

use gateway_common::{
    outer::{
        Class,
        cookie::{Demand, Fate, Proof, Proofs, Question, Secrets, Shown, Strangers, asks_for_cookie, fate},
    },
    wire::Ipv6,
};

use super::{GATEWAY, Ike, SECOND_NS, SPI, START_NS, STRANGER, bytes, origin, question, secrets};

/// The gateway's strangers on one CPU.
struct Gateway {
    secrets: Secrets,
    strangers: Strangers,
    proven: HashMap<Ipv6, Proof>,
    now_ns: u64,
}

struct Of<'a> {
    proven: &'a mut HashMap<Ipv6, Proof>,
    source: Ipv6,
}

impl Proofs for Of<'_> {
    fn get(&mut self) -> Option<&mut Proof> {
        self.proven.get_mut(&self.source)
    }

    fn add(&mut self) -> Option<&mut Proof> {
        Some(self.proven.entry(self.source).or_default())
    }
}

impl Gateway {
    fn calm() -> Self {
        let (strangers, proven) = (Strangers::default(), HashMap::new());
        Self { secrets: secrets(), strangers, proven, now_ns: START_NS }
    }

    /// Returns a gateway that strangers have flooded with requests.
    fn flooded() -> Self {
        let mut gateway = Self::calm();
        for number in 0..Demand::CALM.burst {
            assert_eq!(gateway.open(&of(&format!("11.0.0.{number}"))), Fate::Shared);
        }
        assert_eq!(gateway.open(&of("11.0.1.0")), Fate::Ask);
        gateway
    }

    fn open(&mut self, question: &Question) -> Fate {
        self.fate(question.origin.address, Some(question), Class::Ike)
    }

    fn fate(&mut self, source: Ipv6, question: Option<&Question>, class: Class) -> Fate {
        let mut proofs = Of { proven: &mut self.proven, source };
        fate(question, class, &self.secrets, &mut self.strangers, &mut proofs, self.now_ns)
    }

    /// Returns the request with the cookie that the gateway asks for.
    fn with_cookie(&self, question: Question) -> Question {
        Question { shown: Shown::Cookie, cookie: self.secrets.cookie(&question.origin), ..question }
    }
}

/// Returns a request without a cookie from an address.
fn of(address: &str) -> Question {
    let origin = origin(address, 500, SPI);
    Question { origin, shown: Shown::Nothing, cookie: Default::default(), answerable: true }
}

#[test]
fn nobody_is_asked_before_there_are_secrets() {
    let mut gateway = Gateway { secrets: Secrets::default(), ..Gateway::calm() };
    let unset = Question { shown: Shown::Cookie, ..of(STRANGER[0]) };
    let zero = gateway.with_cookie(of(STRANGER[0]));
    for _ in 0..1_000 {
        for question in [of(STRANGER[0]), unset, zero] {
            assert_eq!(gateway.open(&question), Fate::Shared);
        }
    }
    assert!(gateway.proven.is_empty() && gateway.strangers == Strangers::default());
}

#[test]
fn a_million_sources_are_asked_and_leave_no_state() {
    let mut gateway = Gateway::flooded();
    let before = gateway.strangers;
    for number in 0..1_000_000u32 {
        gateway.now_ns += 1_000;
        let source = std::net::Ipv4Addr::from(0x0c00_0000 + number);
        assert_eq!(gateway.open(&of(&source.to_string())), Fate::Ask);
    }
    assert!(gateway.proven.is_empty());
    assert_eq!(gateway.strangers.shared, before.shared, "nobody is charged");
    assert_eq!(gateway.strangers.asked, before.asked + 1_000_000);
}

#[test]
fn a_valid_cookie_is_charged_to_its_source_only() {
    for from in STRANGER {
        let mut gateway = Gateway::flooded();
        let before = gateway.strangers;
        let burst = Class::Ike.stranger_rate().burst;
        let question = gateway.with_cookie(of(from));
        assert!((0..burst).all(|_| gateway.open(&question) == Fate::Own));
        assert_eq!(gateway.open(&question), Fate::OwnSpent);
        assert_eq!(gateway.strangers, Strangers { proved: u64::from(burst) + 1, ..before });
        // IKE_AUTH is charged to the same budget, fragments to another, nothing else to either.
        let source = question.origin.address;
        assert_eq!(gateway.fate(source, None, Class::Ike), Fate::OwnSpent);
        let fragments = Class::Fragment.stranger_rate().burst;
        assert!((0..fragments).all(|_| gateway.fate(source, None, Class::Fragment) == Fate::Own));
        assert_eq!(gateway.fate(source, None, Class::Fragment), Fate::OwnSpent);
        gateway.now_ns += SECOND_NS;
        let refilled = Class::Ike.stranger_rate().per_second;
        assert!((0..refilled).all(|_| gateway.fate(source, None, Class::Ike) == Fate::Own));
        assert_eq!(gateway.open(&question), Fate::OwnSpent);
    }
}

#[test]
fn what_follows_from_elsewhere_is_shared() {
    let mut gateway = Gateway::flooded();
    assert_eq!(gateway.open(&gateway.with_cookie(of("8.8.8.8"))), Fate::Own);
    for class in [Class::Ike, Class::Fragment] {
        assert_eq!(gateway.fate(of("8.8.8.9").origin.address, None, class), Fate::Shared);
    }
}

#[test]
fn a_proof_ends() {
    let mut gateway = Gateway::flooded();
    let question = gateway.with_cookie(of(STRANGER[0]));
    let source = question.origin.address;
    assert_eq!(gateway.open(&question), Fate::Own);
    gateway.now_ns += Proof::VALIDITY_NS - 1;
    assert_eq!(gateway.fate(source, None, Class::Ike), Fate::Own);
    gateway.now_ns += 1;
    assert_eq!(gateway.fate(source, None, Class::Ike), Fate::Shared);
    assert_eq!(gateway.open(&question), Fate::Own, "its cookie renews it");
    assert_eq!(gateway.fate(source, None, Class::Ike), Fate::Own);
}

#[test]
fn wrong_and_old_cookies_are_answered_with_a_new_one() {
    let mut gateway = Gateway::flooded();
    let mut old = gateway.with_cookie(of(STRANGER[0]));
    let stolen = Question { cookie: gateway.with_cookie(of("8.8.8.9")).cookie, ..old };
    assert_eq!(gateway.open(&stolen), Fate::Ask);
    gateway.secrets = gateway.secrets.rotated([5, 6]);
    assert_eq!(gateway.open(&old), Fate::Own);
    gateway.secrets = gateway.secrets.rotated([7, 8]);
    gateway.proven.clear();
    assert_eq!(gateway.open(&old), Fate::Ask);
    old.shown = Shown::Nothing;
    assert_eq!(gateway.open(&old), Fate::Ask);
    assert!(gateway.proven.is_empty());
}

/// charon asks for a cookie of its own in spite of the shipped settings. Only a source that has shown the gateway's
/// cookie may answer it.
#[test]
fn a_cookie_for_charon_passes_once_the_source_is_proven() {
    let mut gateway = Gateway::flooded();
    let foreign = Question { shown: Shown::Foreign, ..of(STRANGER[0]) };
    assert_eq!(gateway.open(&foreign), Fate::Ask);
    assert_eq!(gateway.open(&gateway.with_cookie(of(STRANGER[0]))), Fate::Own);
    assert_eq!(gateway.open(&foreign), Fate::Own);
    assert_eq!(gateway.open(&of(STRANGER[0])), Fate::Ask, "without any cookie");
}

#[test]
fn unanswerable_requests_are_refused_in_a_flood_only() {
    let unanswerable = Question { answerable: false, ..of(STRANGER[0]) };
    assert_eq!(Gateway::calm().open(&unanswerable), Fate::Shared);
    let mut gateway = Gateway::flooded();
    let before = gateway.strangers;
    assert_eq!(gateway.open(&unanswerable), Fate::Refuse);
    assert_eq!(gateway.strangers, before);
}

#[test]
fn a_valid_cookie_counts_in_calm_too() {
    let mut gateway = Gateway::calm();
    assert_eq!(gateway.open(&gateway.with_cookie(of(STRANGER[0]))), Fate::Own);
    assert_eq!(gateway.strangers, Strangers { proved: 1, ..Strangers::default() });
}

#[test]
fn charons_own_cookies_are_seen() {
    let to = |ike: &Ike| asks_for_cookie(&ike.frame(GATEWAY[0], STRANGER[0])[..]);
    let ask = Ike { kind: [41, 0x20, 34, 0x20], ..Ike::with_cookie(&[1; 24]) };
    assert!(to(&ask) && asks_for_cookie(&ask.frame(GATEWAY[1], STRANGER[1])[..]));
    let cookie = secrets().cookie(&origin(STRANGER[0], 500, SPI));
    for other in [
        // A request of its own, another exchange, another payload, another notification.
        Ike::with_cookie(&bytes(cookie)),
        Ike { kind: [41, 0x20, 35, 0x20], ..ask.clone() },
        Ike { kind: [33, 0x20, 34, 0x20], ..ask.clone() },
        Ike { payloads: [&ask.payloads[..7], &[5], &ask.payloads[8..]].concat(), ..ask.clone() },
        Ike { payloads: ask.payloads[..7].to_vec(), ..ask.clone() },
    ] {
        assert!(!to(&other), "{:?}", other.kind);
    }
    assert!(question(&ask.frame(STRANGER[0], GATEWAY[0])[..]).is_none(), "a response");
}
