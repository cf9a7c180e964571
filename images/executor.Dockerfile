# The executor, which the operator starts in a Pod of its own for every build. It is root there: RUN steps may be.
FROM scratch
COPY ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY karve /usr/bin/karve
ENTRYPOINT ["/usr/bin/karve"]
