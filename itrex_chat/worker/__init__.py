"""The process that does a job: `tasks` says what each kind of job takes, `__main__` talks in lines."""
