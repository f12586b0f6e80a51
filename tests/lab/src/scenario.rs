//! The type of a scenario: a test of something that must work, whatever else happens. The scenarios are in
//! [`crate::scenarios`].
use anyhow::Result;

use crate::lab::Lab;

/// A test of something that must work.
#[derive(Debug)]
pub struct Scenario {
    /// The test's name.
    pub name: &'static str,
    /// Runs the scenario; an error fails the test.
    pub run: fn(&mut Lab) -> Result<()>,
}
