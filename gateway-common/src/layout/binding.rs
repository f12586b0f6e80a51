//! Bindings of charon's reqids to sites.

/// The CHILD_SA that has a reqid now, keyed by the reqid. All zero: the reqid is bound to no site.
///
/// charon gives a released reqid to the next CHILD_SA, whoever's it is, but a mark to one CHILD_SA only
/// (docs/facts.md: reqids-are-recycled). A packet therefore counts only if it carries the binding's mark.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(C, align(8))]
pub struct Binding {
    /// The number of the site whose authenticated identity has the CHILD_SA; 0: none.
    pub site: u32,
    /// The mark of the CHILD_SA, through all its rekeyings. In one word with `site`: written and read at once.
    pub mark: u32,
    /// Two inbound SPIs of the CHILD_SA, as many as a rekeying has; 0 for none. A copy from INBOUND_SPIS that
    /// saves nearly every packet the lookup there.
    pub inbound_spis: [u32; 2],
}

impl Binding {
    /// Returns site and mark, read together: while another CPU replaces the binding, a program sees the old pair
    /// or the new one, never one tenant's site with another's mark.
    #[inline(always)]
    pub fn site_and_mark(&self) -> (u32, u32) {
        // SAFETY: the first eight bytes of this value, aligned to eight (`repr`); any bytes are an integer.
        // Volatile: LLVM must not split the load or repeat it.
        let word = unsafe { (&raw const *self).cast::<u64>().read_volatile() };
        // SAFETY: any bytes are integers.
        let [site, mark] = unsafe { core::mem::transmute::<u64, [u32; 2]>(word) };
        (site, mark)
    }
}

const _: () = assert!(size_of::<Binding>() == 16);
