//! SipHash-2-4 (Aumasson and Bernstein 2012): a keyed hash of short messages, small enough for the verifier.

/// A key of 128 bits: the two halves as little-endian numbers.
pub type Key = [u64; 2];

/// Hashes a message. `blocks` are its whole 8-byte blocks as little-endian numbers; `last` holds the bytes
/// behind them, and the message's length modulo 256 in its most significant byte.
#[inline(always)]
pub fn siphash<const N: usize>(key: Key, blocks: [u64; N], last: u64) -> u64 {
    let mut state = State([
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ]);
    let mut i = 0;
    while i < N {
        state.absorb(blocks[i]);
        i += 1;
    }
    state.absorb(last);
    state.0[2] ^= 0xff;
    state.round();
    state.round();
    state.round();
    state.round();
    state.0[0] ^ state.0[1] ^ state.0[2] ^ state.0[3]
}

struct State([u64; 4]);

impl State {
    #[inline(always)]
    fn absorb(&mut self, block: u64) {
        self.0[3] ^= block;
        self.round();
        self.round();
        self.0[0] ^= block;
    }

    #[inline(always)]
    fn round(&mut self) {
        let [mut a, mut b, mut c, mut d] = self.0;
        a = a.wrapping_add(b);
        b = b.rotate_left(13) ^ a;
        a = a.rotate_left(32);
        c = c.wrapping_add(d);
        d = d.rotate_left(16) ^ c;
        a = a.wrapping_add(d);
        d = d.rotate_left(21) ^ a;
        c = c.wrapping_add(b);
        b = b.rotate_left(17) ^ c;
        c = c.rotate_left(32);
        self.0 = [a, b, c, d];
    }
}
