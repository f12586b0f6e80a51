//! The lab: a cloud gateway, its customers' sites and servers, and the internet between them, in
//! network namespaces, with real IKE, ESP and HTTP.
pub mod attack;
pub mod attacks;
pub mod bare_gateway;
pub mod capture;
pub mod charon;
pub mod content;
pub mod conversation;
pub mod device;
pub mod frame;
pub mod gateway;
pub mod lab;
pub mod open_gateway;
pub mod pki;
pub mod policies;
pub mod report;
pub mod run;
pub mod scenario;
pub mod scenarios;
pub mod server;
pub mod site;
pub mod static_keys;
pub mod suite;
pub mod topology;
pub mod traffic;
pub mod watch;
pub mod xfrm_monitor;
