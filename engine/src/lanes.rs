//! Lanes: the shares into which users are dealt, so that several batches are written at once.
//!
//! One connection to a database does one thing at a time. Facts of different users have nothing to do
//! with each other, so each lane may have a batch of its own under way; those of one user stay in order,
//! since a user is always in the same lane.

use std::num::NonZeroU8;

use schema::UserId;

/// How many lanes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes(NonZeroU8);

impl Lanes {
    /// One lane, for a database that takes one writer at a time.
    pub const ONE: Self = Self(NonZeroU8::MIN);

    /// So many; `None` for none.
    pub fn new(count: u8) -> Option<Self> {
        NonZeroU8::new(count).map(Self)
    }

    /// How many there are.
    pub const fn count(self) -> usize {
        self.0.get() as usize
    }

    /// The user's lane, less than [`Lanes::count`].
    pub fn of(self, user: UserId) -> usize {
        // Ids are given one after the other, so that this deals them out evenly.
        usize::try_from(user.get().rem_euclid(i64::from(self.0.get())))
            .unwrap_or_else(|_| unreachable!("it is not negative"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_user_has_one_lane_and_all_lanes_have_users() {
        for count in [1, 2, 7, u8::MAX] {
            let lanes = Lanes::new(count).unwrap();
            let mut users_of = vec![0; lanes.count()];
            for id in 1..=i64::from(count) * 3 {
                users_of[lanes.of(UserId::new(id).unwrap())] += 1;
            }
            assert_eq!(users_of, vec![3; usize::from(count)]);
        }
        assert_eq!(Lanes::new(0), None);
    }
}
