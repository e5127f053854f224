"""The Mesos framework: a pure core that decides, and the shell around it that saves and speaks."""
