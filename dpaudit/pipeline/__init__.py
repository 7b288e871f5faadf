"""The one place that knows every part."""

from dpaudit.pipeline.outputs import verdict_text as verdict_text
from dpaudit.pipeline.outputs import write_outputs as write_outputs
from dpaudit.pipeline.run import Outcome as Outcome
from dpaudit.pipeline.run import audit as audit
from dpaudit.pipeline.run import run as run
from dpaudit.pipeline.run import train as train
from dpaudit.pipeline.run import with_fault as with_fault
from dpaudit.pipeline.trained import Trained as Trained
