"""An embedded Mesos for one machine: laptops and tests, never production."""
