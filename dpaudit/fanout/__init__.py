"""Many independent tasks on few or many machines: one interface, three backends, results kept by digest.

The results are the same bits whatever the backend, the number of workers, the order and the interruptions: a task is
a pure function of its arguments and of a seed that follows from its name.
"""

from dpaudit.fanout.cache import ResultCache as ResultCache
from dpaudit.fanout.campaign import as_finished as as_finished
from dpaudit.fanout.campaign import run_campaign as run_campaign
from dpaudit.fanout.digests import digest_of as digest_of
from dpaudit.fanout.executors import BACKENDS as BACKENDS
from dpaudit.fanout.executors import Executor as Executor
from dpaudit.fanout.executors import SerialExecutor as SerialExecutor
from dpaudit.fanout.executors import open_executor as open_executor
from dpaudit.fanout.loky_pool import JoblibExecutor as JoblibExecutor
from dpaudit.fanout.ray_pool import RayExecutor as RayExecutor
from dpaudit.fanout.tasks import Done as Done
from dpaudit.fanout.tasks import Task as Task
from dpaudit.fanout.tasks import task_seed as task_seed
