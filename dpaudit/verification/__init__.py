"""Statistical tests with a stated error probability: are noise, clip, sampling and ledger what they claim to be?"""

from dpaudit.verification._counts import SamplingCounts as SamplingCounts
from dpaudit.verification._counts import counts_given as counts_given
from dpaudit.verification._counts import counts_of_batches as counts_of_batches
from dpaudit.verification._step_types import Step as Step
from dpaudit.verification._step_types import StepClaim as StepClaim
from dpaudit.verification.claims import PrivacyClaim as PrivacyClaim
from dpaudit.verification.clipping import check_contribution as check_contribution
from dpaudit.verification.cohort import check_cohort as check_cohort
from dpaudit.verification.ledger_checks import check_ledger as check_ledger
from dpaudit.verification.mechanism import MechanismSubject as MechanismSubject
from dpaudit.verification.mechanism import check_mechanism as check_mechanism
from dpaudit.verification.mechanism_bound import MechanismBound as MechanismBound
from dpaudit.verification.mechanism_bound import bound_mechanism as bound_mechanism
from dpaudit.verification.mechanism_bound import check_mechanism_fixed as check_mechanism_fixed
from dpaudit.verification.neighbours import Neighbours as Neighbours
from dpaudit.verification.noise import check_noise_reuse as check_noise_reuse
from dpaudit.verification.noise import check_noise_scale as check_noise_scale
from dpaudit.verification.noise import check_noise_shape as check_noise_shape
from dpaudit.verification.noise_overlap import check_noise_overlap as check_noise_overlap
from dpaudit.verification.noise_rounds import check_noise_rounds as check_noise_rounds
from dpaudit.verification.sampler_claims import check_sampler as check_sampler
from dpaudit.verification.sampler_claims import claimed_sampler as claimed_sampler
from dpaudit.verification.sampling import check_counts as check_counts
from dpaudit.verification.sampling import check_sampling as check_sampling
from dpaudit.verification.sampling import check_two_stage as check_two_stage
from dpaudit.verification.step import check_step as check_step
