//! Philox4x32-10, the counter-based generator of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC11).
//!
//! A draw is a pure function of (seed, choice, position, token), so a sequence's text doesn't depend on what else
//! runs, and a GPU kernel can repeat it bit for bit.

const MUL: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const WEYL: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The random stream of one sampled position.
#[derive(Clone, Copy, Debug)]
pub struct Stream {
    key: [u32; 2],
    position: u32,
    choice: u32,
}

impl Stream {
    /// The stream of `(seed, choice, position)`; `position` is the index of the token to draw in its sequence.
    pub fn new(seed: u64, choice: u32, position: u32) -> Self {
        Self { key: [seed as u32, (seed >> 32) as u32], position, choice }
    }

    /// Uniform 32-bit words of tokens `4 * group .. 4 * group + 4`.
    pub fn words(&self, group: u32) -> [u32; 4] {
        philox4x32([group, self.position, self.choice, 0], self.key)
    }
}

/// Ten rounds over a 128-bit counter with a 64-bit key.
pub fn philox4x32(mut ctr: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..ROUNDS {
        if round > 0 {
            key = [key[0].wrapping_add(WEYL[0]), key[1].wrapping_add(WEYL[1])];
        }
        let a = u64::from(MUL[0]) * u64::from(ctr[0]);
        let b = u64::from(MUL[1]) * u64::from(ctr[2]);
        ctr = [(b >> 32) as u32 ^ ctr[1] ^ key[0], b as u32, (a >> 32) as u32 ^ ctr[3] ^ key[1], a as u32];
    }
    ctr
}

/// Maps a word to `v` in (0, 1): the uniform variate of which `-ln(1 - v)` is an exponential one. Small values,
/// which decide a race, keep their relative precision; at 1 even the only token left would score nothing.
pub fn open_unit(word: u32) -> f32 {
    ((word as f32 + 0.5) * (1.0 / 4_294_967_296.0)).min(1.0 - f32::EPSILON / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers_of_the_random123_distribution() {
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]);
        assert_eq!(philox4x32([u32::MAX; 4], [u32::MAX; 2]), [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]);
        assert_eq!(
            philox4x32([0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344], [0xa409_3822, 0x299f_31d0]),
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1]
        );
    }

    #[test]
    fn unit_stays_in_range() {
        assert!(open_unit(0) > 0.0);
        assert!(open_unit(u32::MAX) < 1.0);
    }
}
