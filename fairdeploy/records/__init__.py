"""What the stages hand over, in the order in which it is made.

Records are frozen: a stage that changes something makes a new one. Arrays inside are not copied,
and nobody writes into them.
"""

from fairdeploy.records.accuracy import *
from fairdeploy.records.allocation import *
from fairdeploy.records.control import *
from fairdeploy.records.deployment import *
from fairdeploy.records.inputs import *
from fairdeploy.records.judgement import *
from fairdeploy.records.method import *
from fairdeploy.records.metrics import *
from fairdeploy.records.multiples import *
from fairdeploy.records.operators import *
from fairdeploy.records.surgery import *
from fairdeploy.records.sweep import *
from fairdeploy.records.training import *
from fairdeploy.records.variants import *
