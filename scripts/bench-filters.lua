-- The part of enrich that a script would do: four kinds of events classified, their fields named. For scripts/bench-filters.sh.
function classify(tag, timestamp, record)
    local line = record["log"] or record["message"]
    if line then
        local ip, user, method, path, status, agent =
            string.match(line, '^(%S+) %S+ (%S+) %[[^%]]+%] "(%u+) (%S+) [^"]*" (%d+) %S+ "[^"]*" "([^"]*)"')
        if ip then
            record["event_type"] = "api_call"
            record["category"] = "api_activity"
            record["ip_address"], record["user_id"], record["method"] = ip, user, method
            record["endpoint"], record["response_code"], record["user_agent"] = path, tonumber(status), agent
            record["result"] = tonumber(status) < 400 and "success" or "failure"
            return 2, timestamp, record
        end
        local who, from = string.match(line, "sshd%[%d+%]: Failed %S+ for (%S+) from (%S+) port")
        if who then
            record["event_type"], record["category"] = "login_attempt", "authentication"
            record["user_id"], record["ip_address"], record["success"] = who, from, false
            record["result"] = "failure"
            return 2, timestamp, record
        end
    elseif record["apiVersion"] == "audit.k8s.io/v1" then
        local object, user = record["objectRef"] or {}, record["user"] or {}
        record["event_type"], record["category"] = "data_read", "data_access"
        record["user_id"], record["resource_type"], record["resource_id"] = user["username"], object["resource"], object["name"]
        record["ip_address"] = record["sourceIPs"] and record["sourceIPs"][1]
        record["result"] = record["responseStatus"] and record["responseStatus"]["code"] < 400 and "success" or "failure"
        return 2, timestamp, record
    elseif record["event_type"] then
        record["actor"] = record["user_id"]
        return 2, timestamp, record
    end
    return 0, timestamp, record
end
