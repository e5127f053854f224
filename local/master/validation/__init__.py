"""What the master refuses, and in which words: pure functions that return the error's text or None.

Source: Mesos src/master/validation.cpp, src/common/validation.cpp, src/common/resources.cpp, src/common/roles.cpp.
"""
