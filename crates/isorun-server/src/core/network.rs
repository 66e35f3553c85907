//! The network access of runs: parameters are checked, and rules and secrets are stored
//! with the run.

mod params;
mod settings;
mod trust;

pub use params::{check_change, credentials, described_profiles, network_params};
pub use settings::Settings;
pub use trust::{environment, install, placeholders};

use isorun_api::Network;

/// Returns the settings in the form of the API.
pub fn describe(settings: &Settings) -> Network {
    let (allow, deny) = settings.policy.lists();
    Network {
        profile: settings.profile.clone(),
        rest: params::rest_name(settings.policy.default_action()).to_owned(),
        allow,
        deny,
        credentials: settings.credentials.list().iter().map(|one| one.name.clone()).collect(),
    }
}

/// Checks a fuzzed change of rules, starting from each of the profiles: the resulting
/// description is accepted as a change, and changes nothing.
#[cfg(any(test, feature = "fuzzing"))]
pub fn fuzz_network(fuzzed: &isorun_api::NetworkChange) {
    for (name, ..) in params::profiles() {
        let Ok(params) = network_params(Some(name), None) else { panic!("{name}") };
        let before =
            Settings { profile: params.profile, policy: params.policy, ..Settings::default() };
        let Ok(params) = check_change(fuzzed, &describe(&before)) else { continue };
        let after = before.with(params);
        let description = serde_json::to_vec(&describe(&after)).unwrap_or_default();
        let again: isorun_api::NetworkChange =
            crate::strict_json::object(&description).unwrap_or_else(|why| panic!("{why}"));
        let again = check_change(&again, &describe(&after));
        let again = again.unwrap_or_else(|error| panic!("{}", error.message));
        assert_eq!(after.with(again), after);
    }
}
